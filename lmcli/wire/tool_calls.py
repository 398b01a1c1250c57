"""Packets of tool calls ⇄ values: a call begins, gets a name and arguments piece by piece, and ends or fails.

Source: lmstudio-js 6ec11db, lms-external-backend-interfaces/src/llmBackendInterface.ts
"""

from typing import Any, Final

from lmcli.errors import PredictionFailed, RemoteProtocolError, quoted
from lmcli.values import JsonObject, ToolCallFailure, ToolCallFragment, ToolCallRequest, ToolCallValue
from lmcli.wire.histories import write_tool_call_request
from lmcli.wire.objects import present
from lmcli.wire.pieces import is_deeper
from lmcli.wire.server_errors import failure

_MAX_DEPTH: Final = 900
"""Arguments that are nested more deeply could not be read again where they are part of other JSON."""


class ToolCallReader:
    """Reads the tool calls of one prediction, one after the other.

    The pieces of the arguments are not collected: the packet that ends a call holds all of them.
    """

    def __init__(self) -> None:
        self._open: ToolCallFragment | None = None

    def read(self, packet: JsonObject) -> ToolCallValue | None:
        """Read a packet; None for one of an unknown type.

        Raises:
            RemoteProtocolError: a required key is missing, or a value has another type.
        """
        match packet["type"]:
            case "toolCallGenerationStart":
                self._open = ToolCallFragment(id=_optional_text(packet, "toolCallId"))
                return self._open
            case "toolCallGenerationNameReceived":
                piece = ToolCallFragment(name=_text(packet, "name"))
                self._open = (self._open or piece)._replace(name=piece.name)
                return piece
            case "toolCallGenerationArgumentFragmentGenerated":
                return ToolCallFragment(arguments=_text(packet, "content"))
            case "toolCallGenerationEnd":
                return self._request(packet)
            case "toolCallGenerationFailed":
                message = failure(packet.get("error"), PredictionFailed).message
                return ToolCallFailure(message, self._close().name, _optional_text(packet, "rawContent"))
        return None

    def rest(self) -> ToolCallFailure | None:
        """The call that has neither ended nor failed, at the end of the prediction."""
        return None if self._open is None else ToolCallFailure("it is not complete", self._close().name)

    def _request(self, packet: JsonObject) -> ToolCallRequest | ToolCallFailure:
        """Read a whole call; arguments that are not an object are those of the model, so they end only the call."""
        request = packet.get("toolCallRequest")
        if not isinstance(request, dict):
            raise _wrong("toolCallRequest", request)
        name, call_id, content = (
            _text(request, "name"),
            _optional_text(request, "id"),
            _optional_text(packet, "rawContent"),
        )
        begun = self._close()
        arguments = request.get("arguments")
        if arguments is not None and not isinstance(arguments, dict):
            return ToolCallFailure("its arguments are not an object", name, content)
        if is_deeper(arguments, _MAX_DEPTH):
            return ToolCallFailure("its arguments are nested too deeply", name, content)
        return ToolCallRequest(name, arguments, begun.id if call_id is None else call_id)

    def _close(self) -> ToolCallFragment:
        """What is known of the open call, which is over."""
        begun, self._open = self._open or ToolCallFragment(), None
        return begun


def write_tool_call(value: ToolCallValue) -> JsonObject:
    """Write the packet of a tool call."""
    match value:
        case ToolCallRequest():
            return {"type": "toolCallGenerationEnd", "toolCallRequest": write_tool_call_request(value)}
        case ToolCallFailure(message, _, content):
            error = {"title": message, "rootTitle": message}
            return present({"type": "toolCallGenerationFailed", "error": error, "rawContent": content})
        case ToolCallFragment(arguments=str(content)):
            return {"type": "toolCallGenerationArgumentFragmentGenerated", "content": content}
        case ToolCallFragment(name=str(name)):
            return {"type": "toolCallGenerationNameReceived", "name": name}
        case ToolCallFragment(call_id):
            return present({"type": "toolCallGenerationStart", "toolCallId": call_id})


def _text(holder: JsonObject, key: str) -> str:
    value = holder.get(key)
    if isinstance(value, str):
        return value
    raise _wrong(key, value)


def _optional_text(holder: JsonObject, key: str) -> str | None:
    return None if holder.get(key) is None else _text(holder, key)


def _wrong(key: str, value: Any) -> RemoteProtocolError:
    return RemoteProtocolError(f"the server sent {key} of a tool call as {quoted(value, limit=40)}")
