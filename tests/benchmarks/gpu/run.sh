#!/bin/sh
# All that needs a GPU, in at most 8 minutes: the tests marked gpu, the same tokens of both engines, tokens a second.
#
#     tests/benchmarks/gpu/run.sh [--size 1b] [--clients 1,32,256] [--tokens 128] [--quick]
#
# It installs only what is missing. PYTHON names the interpreter (default: .venv's, else python3). --quick runs all of
# it in seconds on the CPU, with tiny models. The options are those of engines.py.
set -u
cd "$(dirname "$0")/../../.." || exit 1
[ -n "${PYTHON:-}" ] || { PYTHON=.venv/bin/python && [ -x "$PYTHON" ]; } || PYTHON=python3
limit_tests=240 limit_rates=240
tests=tests/gpu

case " $* " in
*" --quick "*)
    CHATPLAN_TEST_DEVICE=${CHATPLAN_TEST_DEVICE:-cpu}
    export CHATPLAN_TEST_DEVICE
    # The longest of them, which has tests of its own on the CPU.
    tests="$tests --ignore=tests/gpu/test_gpu_tensor_parallel.py"
    ;;
esac

# What setup.cfg asks for, and for the tests, as far as it is not there.
missing=$("$PYTHON" -c '
import configparser, importlib.metadata as metadata
from pip._vendor.packaging.requirements import Requirement

config = configparser.ConfigParser()
config.read("setup.cfg")
wanted = config["options"]["install_requires"].split() + ["transformers>=5.23", "pytest", "pytest-timeout", "psutil"]
for each in map(Requirement, wanted):
    try:
        there = each.specifier.contains(metadata.version(each.name), prereleases=True)
    except metadata.PackageNotFoundError:
        there = False
    if not there:
        print(each)
') || exit 1
if [ -n "$missing" ]; then
    echo "== installing" $missing
    # shellcheck disable=SC2086
    "$PYTHON" -m pip install --quiet --disable-pip-version-check $missing || exit 1
fi

# A checkout that is not installed is laid out as links, under the name that it is imported by.
if ! "$PYTHON" -c 'import chatplan'; then
    mkdir -p build/gpu/chatplan
    for each in plugin/*; do ln -sfn "../../../$each" build/gpu/chatplan/; done
    ln -sfn ../../../hooks build/gpu/chatplan/hooks
    ln -sfn ../../../adapters build/gpu/chatplan/adapters
    PYTHONPATH=build/gpu${PYTHONPATH:+:$PYTHONPATH}
    export PYTHONPATH
fi

failed=0
echo "== tests"
# shellcheck disable=SC2086
timeout "$limit_tests" "$PYTHON" -m pytest -q -m gpu --junitxml=build/junit-gpu.xml $tests || failed=1
echo "== tokens"
timeout "$limit_rates" "$PYTHON" tests/benchmarks/gpu/engines.py "$@" || failed=1
exit "$failed"
