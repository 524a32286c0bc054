"""Which string formats are enforced, and by which pattern."""

from __future__ import annotations

__all__ = ["DEFINED", "ENFORCED", "PATTERNS"]

ENFORCED = frozenset("duration hostname ipv4 uuid".split())
"""Formats that llguidance enforces as they are defined."""

DEFINED = frozenset(
    """date-time time date duration email idn-email hostname idn-hostname ipv4 ipv6 uri uri-reference iri iri-reference
    uuid uri-template json-pointer relative-json-pointer regex""".split()
)
"""https://json-schema.org/draft/2020-12/json-schema-validation#section-7.3; the drafts before it define no others."""


def _any(*ways: str) -> str:
    return f"(?:{'|'.join(ways)})"


# RFC 3339, section 5.6 and appendix C; of times with a leap second, only those in UTC.
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DAYS = ("(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])", "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)")
_DATE = _any(f"[0-9]{{4}}-{_any(*_DAYS, '02-(?:0[1-9]|1[0-9]|2[0-8])')}", f"{_LEAP_YEAR}-02-29")
_MINUTES = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_FRACTION = r"(?:\.[0-9]+)?"
_LEAP_SECOND = rf"23:59:60{_FRACTION}(?:[zZ]|[+\-]00:00)"
_TIME = _any(rf"{_MINUTES}:[0-5][0-9]{_FRACTION}(?:[zZ]|[+\-]{_MINUTES})", _LEAP_SECOND)

# RFC 3986, appendix A
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_H16 = "[0-9a-fA-F]{1,4}"
_LS32 = _any(f"{_H16}:{_H16}", _IPV4)


def _ipv6() -> str:
    """``IPv6address``: groups before "::", and so many after it that it stands for one group at least."""
    ways = [f"(?:{_H16}:){{6}}{_LS32}", f"::(?:{_H16}:){{5}}{_LS32}"]
    for before in range(5):
        head = f"(?:{_H16}(?::{_H16}){{0,{before}}})?"
        ways.append(f"{head}::" + (f"(?:{_H16}:){{{4 - before}}}" if before < 4 else "") + _LS32)
    ways += [f"(?:{_H16}(?::{_H16}){{0,5}})?::{_H16}", f"(?:{_H16}(?::{_H16}){{0,6}})?::"]
    return _any(*ways)


# RFC 3987, section 2.2: ``ucschar`` and ``iprivate``
_FAR = "".join(rf"\x{{{plane:X}0000}}-\x{{{plane:X}FFFD}}" for plane in range(1, 14))
_UCS = rf"\xA0-\x{{D7FF}}\x{{F900}}-\x{{FDCF}}\x{{FDF0}}-\x{{FFEF}}{_FAR}".replace(r"\x{E0000}", r"\x{E1000}")
_PRIVATE = r"\x{E000}-\x{F8FF}\x{F0000}-\x{FFFFD}\x{100000}-\x{10FFFD}"


def _reference(international: bool, relative: bool) -> str:
    """``URI`` or ``URI-reference``, or the same of RFC 3987."""
    ucs, private = (_UCS, _PRIVATE) if international else ("", "")
    plain, escape = rf"A-Za-z0-9\-._\~!$\&'()*+,;={ucs}", "%[0-9a-fA-F]{2}"
    character = f"(?:[{plain}:@]|{escape})"
    user, name = f"(?:[{plain}:]|{escape})*", f"(?:[{plain}]|{escape})*"
    future = r"[vV][0-9a-fA-F]+\.[A-Za-z0-9\-._\~!$\&'()*+,;=:]+"
    host = _any(rf"\[{_any(_ipv6(), future)}\]", name)
    authority = f"(?:{user}@)?{host}(?::[0-9]*)?"
    more = f"(?:/{character}*)*"
    end = rf"(?:\?(?:[{plain}:@/?{private}]|{escape})*)?(?:\#(?:[{plain}:@/?]|{escape})*)?"
    path = _any(f"//{authority}{more}", f"/(?:{character}+{more})?", f"{character}+{more}", "")
    absolute = rf"[A-Za-z][A-Za-z0-9+\-.]*:{path}{end}"
    first = f"(?:[{plain}@]|{escape})+"
    near = _any(f"//{authority}{more}", f"/(?:{character}+{more})?", f"{first}{more}", "")
    return f"^{_any(absolute, near + end) if relative else absolute}$"


def _template() -> str:
    """RFC 6570, section 2."""
    literal = rf"(?:[!\#$\&(-;=?-\[\]_a-z\~{_UCS}{_PRIVATE}]|%[0-9a-fA-F]{{2}})"
    character = "(?:[A-Za-z0-9_]|%[0-9a-fA-F]{2})"
    variable = rf"{character}(?:\.?{character})*(?:\*|:[1-9][0-9]{{0,3}})?"
    return rf"^(?:{literal}|\{{[+\#./;?\&=,!@|]?{variable}(?:,{variable})*\}})*$"


# RFC 5321, section 4.1.2 and 4.1.3: ``Mailbox``, without address literals of further kinds
_ATOM = r"[A-Za-z0-9!\#$%\&'*+\-/=?\^_`{|}\~]+"
_QUOTED = r'"(?:[ !\#-\[\]-\~]|\\[ -\~])*"'
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?"
_LITERAL = _any(_IPV4, f"IPv6:{_ipv6()}")
_DOMAIN = _any(rf"{_LABEL}(?:\.{_LABEL})*", rf"\[{_LITERAL}\]")
_LOCAL = _any(rf"{_ATOM}(?:[.]{_ATOM})*", _QUOTED)
_MAILBOX = f"{_LOCAL}@{_DOMAIN}"

_POINTER = r"(?:/(?:[^~/]|\~[01])*)*"
PATTERNS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}[tT]{_TIME}$",
    "email": f"^{_MAILBOX}$",
    "ipv6": f"^{_ipv6()}$",
    "uri": _reference(international=False, relative=False),
    "uri-reference": _reference(international=False, relative=True),
    "iri": _reference(international=True, relative=False),
    "iri-reference": _reference(international=True, relative=True),
    "uri-template": _template(),
    # RFC 6901, section 3
    "json-pointer": f"^{_POINTER}$",
    # https://datatracker.ietf.org/doc/html/draft-handrews-relative-json-pointer-01#section-3
    "relative-json-pointer": rf"^(?:0|[1-9][0-9]*)(?:\#|{_POINTER})$",
}
"""Formats as patterns in Rust's dialect."""
