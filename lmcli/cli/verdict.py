"""Whether an answer is complete: the stop reason, seen with what the user asked for."""

from lmcli.errors import ContextFull, Incomplete, LmError, ModelUnloaded, PredictionFailed, Unusable
from lmcli.values import PredictionConfig, PredictionEnd
from lmcli.wire.config import OPTIONS, PREDICTION_PREFIX


def verdict(end: PredictionEnd, config: PredictionConfig, *, is_empty: bool) -> LmError | None:
    """What is wrong with an answer that the server calls finished; None if it is complete.

    A limit that the user asked for counts as complete. Stop reasons that are not known count as complete, too.
    Source of the reasons: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMPredictionStats.ts
    """
    stats, model = end.stats, end.model_info
    match stats.stop_reason:
        case "contextLengthReached":
            return ContextFull(
                f"the answer is cut: the context of {model.identifier} is full ({model.context_length} tokens)",
                "--overflow rolling goes on, -m KEY --context-length N loads the model with more",
            )
        case "modelUnloaded":
            return ModelUnloaded(f"the answer is cut: the model {model.identifier} was unloaded")
        case "failed":
            return PredictionFailed("the prediction failed; the server gave no reason")
        case "userStopped":
            return Incomplete("the answer is cut: the prediction was stopped on the server")
        case "maxPredictedTokensReached" if not _has_limit(config):
            limit = stats.predicted_tokens_count
            return Incomplete(f"the answer is cut at the server's limit of {limit} tokens", "-l N sets another limit")
    return Unusable("the answer is empty", "-o json shows the reasoning and why it stopped") if is_empty else None


def _has_limit(config: PredictionConfig) -> bool:
    return bool(config.max_tokens) or PREDICTION_PREFIX + OPTIONS["max_tokens"].key in config.raw
