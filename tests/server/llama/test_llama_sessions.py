"""Several predictions of one model: at once, in turn, cancelled, and ended by an unload."""

from conftest import Packet, Wire, checked, predicting, stats_of, text_of
from local_servers import load
from tiny_server import NO_END, complete, only, options


def test_concurrent_predictions(tiny: Wire) -> None:
    """More predictions than sessions run on one connection, each with its own text."""
    words = [f"answer {number}" for number in range(9)]
    channels = {
        tiny.open("predict", predicting("hi", options(structured=only(word)), identifier="one")): word for word in words
    }
    texts = dict.fromkeys(channels, "")
    ended = 0
    while ended < len(channels):
        envelope = tiny.receive()
        ended += envelope["type"] == "channelClose"
        message = envelope.get("message", {})
        if message.get("type") == "fragment":
            texts[envelope["channelId"]] += message["fragment"]["content"]
    assert texts == channels


def test_predictions_wait_for_a_slot(tiny: Wire) -> None:
    """Predictions that wait for a session can be cancelled at once, in any order."""
    load(tiny, "two", numParallelSessions=1)
    endless = options(contextOverflowPolicy="rollingWindow", maxPredictedTokens=checked(60_000), **NO_END)
    channels = [tiny.open("predict", predicting("hi", endless, identifier="two")) for _ in range(20)]
    while (envelope := tiny.receive())["message"]["type"] != "fragment":
        pass
    running = envelope["channelId"]
    for channel in sorted(channels, key=lambda channel: channel == running):
        tiny.cancel(channel)
        stats = stats_of([end_of(tiny, channel)])
        assert stats["stopReason"] == "userStopped"
        assert (stats["predictedTokensCount"] > 0) == (channel == running)
    assert stats_of(tiny.predict("hi", options(), identifier="two"))["predictedTokensCount"] > 0
    tiny.call("unloadModel", {"identifier": "two"})


def end_of(tiny: Wire, channel: int) -> Packet:
    """The last packet of a channel before its close; envelopes of other channels are skipped."""
    last: Packet = {}
    while (envelope := tiny.receive())["type"] != "channelClose" or envelope["channelId"] != channel:
        if envelope.get("channelId") == channel:
            last = envelope["message"]
    return last


def test_cancel_while_the_prompt_is_read(tiny: Wire) -> None:
    """The answer to a cancel does not wait for the prompt: it comes while the engine is still reading."""
    load(tiny, "slow", contextLength=8192)
    channel = tiny.open("predict", predicting("other " * 1000, options(), identifier="slow"))
    assert tiny.receive()["message"]["progress"] < 1
    tiny.cancel(channel)
    packets = tiny.packets(channel)
    assert all(packet["progress"] < 1 for packet in packets if packet["type"] == "promptProcessingProgress")
    assert stats_of(packets)["stopReason"] == "userStopped"
    assert text_of(packets) == ""


def test_unload_during_a_prediction(tiny: Wire) -> None:
    """The predictions of an unloaded model end with what they have; other models continue."""
    load(tiny, "two")
    endless = options(contextOverflowPolicy="rollingWindow", maxPredictedTokens=checked(60_000), **NO_END)
    channel = tiny.open("predict", predicting("hi", endless, identifier="two"))
    while tiny.receive()["message"]["type"] != "fragment":
        pass
    tiny.begin("rpcCall", "unloadModel", {"identifier": "two"})
    last: Packet = {}
    is_answered = False
    while last.get("type") != "channelClose" or not is_answered:
        envelope = tiny.receive()
        if envelope["type"] == "rpcResult":
            is_answered = True
            continue
        last = envelope
        if envelope.get("message", {}).get("type") == "success":
            assert envelope["message"]["stats"]["stopReason"] == "modelUnloaded"
    assert channel == last["channelId"]
    assert text_of(complete(tiny, "a", options(structured=only("fine")))) == "fine"
