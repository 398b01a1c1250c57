"""Values ⇄ what envelopes carry: packets, parameters, results.

Unknown keys are ignored and optional ones may be missing, so that newer and older servers are both understood;
a required key that is missing or of another type is a `RemoteProtocolError`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import orjson

from lmcli.errors import RemoteProtocolError, quoted
from lmcli.values import (
    AmbiguousModel,
    CandidateToken,
    Fragment,
    JsonObject,
    LoadNote,
    ModelInstance,
    PredictedToken,
    PredictionEnd,
    PromptDetails,
    PromptProgress,
    Stats,
    UnloadingModel,
)
from lmcli.wire.config import write_fields
from lmcli.wire.objects import UNKNOWN, number, object_of, present, read, whole, write
from lmcli.wire.surrogates import repaired

AnyToken = TypeVar("AnyToken", CandidateToken, PredictedToken)
_new: Final = tuple.__new__  # without the constructor of named tuples, a sixth of the time of a fragment


def fragment(body: Any) -> Fragment:
    """Read the piece of text inside a `fragment` packet.

    Shapes: {"fragment": {"content": str, "tokensCount": int, "containsDrafted": bool, "reasoningType": str,
        "isStructural": bool, "tokens": [token, …]}}; tokens only if log probabilities were asked for, see `_token`.
    Units: tokens_count in model tokens; content may be empty and may end inside a grapheme.
    Raises:
        RemoteProtocolError: `content` is missing or a value has another type.
    Source: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMPredictionFragment.ts
    """
    try:
        piece = body["fragment"]
        content = piece["content"]
        tokens = piece.get("tokens")
        try:  # subscripts take half the time of `get`
            tokens_count = piece["tokensCount"]
            contains_drafted = piece["containsDrafted"]
            reasoning_type = piece["reasoningType"]
            is_structural = piece["isStructural"]
        except KeyError:
            tokens_count = piece.get("tokensCount", 1)
            contains_drafted = piece.get("containsDrafted", False)
            reasoning_type = piece.get("reasoningType", "none")
            is_structural = piece.get("isStructural", False)
    except (KeyError, TypeError, AttributeError) as error:
        raise RemoteProtocolError(f"the server sent a fragment without content: {quoted(body, limit=80)}") from error
    if (
        type(content) is str
        and type(tokens_count) is int
        and type(contains_drafted) is bool
        and type(reasoning_type) is str
        and type(is_structural) is bool
    ):
        read_tokens = () if tokens is None else _tokens(tokens, _token)
        return _new(Fragment, (content, tokens_count, contains_drafted, reasoning_type, is_structural, read_tokens))
    raise RemoteProtocolError(f"the server sent a fragment with a value of the wrong type: {quoted(body, limit=80)}")


def _tokens(entries: Any, read_one: Callable[[Any], AnyToken]) -> tuple[AnyToken, ...]:
    """Read the tokens of a fragment, or the candidates of a token; null is none.

    Raises:
        RemoteProtocolError: it is not an array of tokens.
    """
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise RemoteProtocolError(f"the server sent tokens as {quoted(entries, limit=40)}")
    return tuple(map(read_one, entries))


def _token(entry: Any) -> PredictedToken:
    return PredictedToken(*_candidate(entry), _tokens(entry.get("candidates"), _candidate))


def _candidate(entry: Any) -> CandidateToken:
    """Read a candidate, or a token but for its candidates.

    Shapes: {"text": str, "id": int, "logProb": number}; `logProb` may be missing, or null.
    Raises:
        RemoteProtocolError: `text` or `id` is missing or a value has another type.
    Source: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMPredictionFragment.ts
    """
    match entry:
        case {"text": str(text), "id": sent_id} if (id_ := whole(sent_id)) is not None:
            log_prob = entry.get("logProb")
            if log_prob in UNKNOWN:
                return CandidateToken(repaired(text), id_)
            if number(log_prob) is not None:
                return CandidateToken(repaired(text), id_, log_prob)
    raise RemoteProtocolError(f"the server sent a token as {quoted(entry, limit=80)}")


def _write_token(token: PredictedToken) -> JsonObject:
    value = _write_candidate(token)
    return value | {"candidates": list(map(_write_candidate, token.candidates))} if token.candidates else value


def _write_candidate(token: CandidateToken | PredictedToken) -> JsonObject:
    return present({"text": token.text, "id": token.id, "logProb": token.log_prob})


def write_fragment(value: Fragment) -> JsonObject:
    """Write a `fragment` packet with every key that either official SDK requires."""
    piece = {
        "content": value.content,
        "tokensCount": value.tokens_count,
        "containsDrafted": value.contains_drafted,
        "reasoningType": value.reasoning_type,
        "isStructural": value.is_structural,
    }
    if value.tokens:
        piece["tokens"] = list(map(_write_token, value.tokens))
    return {"type": "fragment", "fragment": piece}


def progress(body: Any) -> float:
    """Read the share done from a progress packet, held to 0.0 … 1.0.

    Raises:
        RemoteProtocolError: it is not a number.
    """
    value = body.get("progress") if isinstance(body, dict) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(min(max(value, 0.0), 1.0))  # held first: a whole number may be too large for a float
    raise RemoteProtocolError(f"the server sent progress without a number: {quoted(body, limit=80)}")


def load_note(body: Any) -> LoadNote | None:
    """Read a `resolved` or `unloadingOtherJITModel` packet; None where one model matches, as is usual.

    Shapes: {"type": "resolved", "info": {"modelKey": str}, "ambiguous": [str, …]}, `ambiguous` may be missing;
    {"type": "unloadingOtherJITModel", "info": {"modelKey": str, "identifier": str}}, a model of any kind.
    Raises:
        RemoteProtocolError: a value is missing or has another type.
    Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/baseModelBackendInterface.ts
    """
    match body:
        case {"type": "unloadingOtherJITModel", "info": {"modelKey": str(key), "identifier": str(identifier)}}:
            return UnloadingModel(model_key=repaired(key), identifier=repaired(identifier))
        case {"type": "resolved"} if body.get("ambiguous") in (None, []):
            return None
        case {"type": "resolved", "info": {"modelKey": str(key)}, "ambiguous": [*keys]}:
            if all(isinstance(candidate, str) for candidate in keys):
                return AmbiguousModel(model_key=repaired(key), candidates=tuple(map(repaired, keys)))
    raise RemoteProtocolError(f"the server sent a note on a load as {quoted(body, limit=80)}")


def prompt_progress(body: Any) -> PromptProgress:
    """Read a `promptProcessingProgress` packet.

    Shapes: {"progress": number, "details": {"cachedTokenCount": int, …}}; the details may be missing.
    Raises:
        RemoteProtocolError: a value has another type.
    """
    share, details = progress(body), body.get("details")
    return PromptProgress(share, None if details is None else read(PromptDetails, details))


def prediction_end(body: Any, details: PromptDetails | None = None) -> PredictionEnd:
    """Read a `success` packet.

    Shapes: {"stats": {…}, "modelInfo": {…}, "loadModelConfig": KV, "predictionConfig": KV}; the KVs may be missing.
    Args:
        body: the packet.
        details: the last that the progress said about the prompt; the stats do not say how much of it was cached.

    Raises:
        RemoteProtocolError: stats or model info are missing or malformed.
    """
    packet = object_of(body, "success")
    stats = packet.get("stats")
    if details is not None and isinstance(stats, dict):
        stats = stats | {"cachedPromptTokensCount": details.cached_token_count}
    return PredictionEnd(
        stats=read(Stats, stats),
        model_info=read(ModelInstance, packet.get("modelInfo")),
        load_config=object_of(packet.get("loadModelConfig", {}), "loadModelConfig"),
        prediction_config=object_of(packet.get("predictionConfig", {}), "predictionConfig"),
    )


def write_prediction_end(
    stats: Stats, model: ModelInstance, load_values: Mapping[str, Any], prediction_values: Mapping[str, Any]
) -> JsonObject:
    """Write a `success` packet; the configurations are mappings of config keys to values."""
    return {
        "type": "success",
        "stats": write(stats),
        "modelInfo": write(model),
        "loadModelConfig": write_fields(load_values),
        "predictionConfig": write_fields(prediction_values),
    }


def parse_object(text: str) -> JsonObject | None:
    """The JSON object in a text; None where it holds none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
