"""What SageMaker's Hugging Face container loads."""

from chatplan.adapters.endpoint.sagemaker import model_fn, predict_fn

__all__ = ["model_fn", "predict_fn"]
