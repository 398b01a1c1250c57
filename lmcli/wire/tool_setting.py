"""Tools and the choice among them as OpenAI's programs write them → the settings of LM Studio.

Source: lmstudio-js 6ec11db, lms-shared-types/src/llm/LLMToolUseSetting.ts: a server drops a setting that is not valid.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from lmcli.errors import UsageError, quoted
from lmcli.values import JsonObject

_MODES: Final = ("none", "auto", "required")


def tools(value: Any) -> Any:
    """The setting for an array of tools; what is not an array is the setting itself.

    Shapes: [{"type": "function", "function": {"name": str, "description": str, "parameters": {…}}}, …], as OpenAI has
    it; description and parameters may be missing.
    Raises:
        UsageError: with the path of what is wrong.
    """
    if not isinstance(value, list | tuple):
        return value
    return {"type": "toolArray", "tools": [_tool(tool, f"tools[{index}]") for index, tool in enumerate(value)]}


def tool_choice(value: Any) -> Any:
    """The setting for one of the modes `none`, `auto` and `required`; what is not a text is the setting itself.

    Raises:
        UsageError: there is no such mode.
    """
    if not isinstance(value, str):
        return value
    if value not in _MODES:
        raise UsageError(f"tool choice must be one of {', '.join(_MODES)}, not {quoted(value)}")
    return {"type": "generic", "mode": value}


SETTINGS: Final[Mapping[str, Callable[[Any], Any]]] = MappingProxyType({"tools": tools, "toolChoice": tool_choice})
"""By config key, after `llm.prediction.`."""


def _tool(tool: Any, at: str) -> JsonObject:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(tool, Mapping) or tool.get("type") != "function" or not isinstance(function, Mapping):
        raise UsageError(
            f'{at}: expected an object with the type "function" and a function, not {quoted(tool, limit=60)}'
        )
    if not isinstance(function.get("name"), str):
        raise UsageError(f"{at}.function.name: expected a string")
    described = {key: value for key, value in function.items() if value is not None}
    if (parameters := described.get("parameters")) is not None:
        if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
            raise UsageError(f"{at}.function.parameters: expected the JSON schema of an object")
        # OpenAI's may lack what LM Studio requires.
        described["parameters"] = {"type": "object", "properties": {}, **parameters}
    return {"type": "function", "function": described}
