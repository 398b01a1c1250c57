"""Records as a server sends them, with every key."""

STATS = {
    "stopReason": "eosFound",
    "stopString": ";",
    "tokensPerSecond": 41.5,
    "numGpuLayers": -1,
    "timeToFirstTokenSec": 0.12,
    "totalTimeSec": 0.19,
    "promptTokensCount": 9,
    "predictedTokensCount": 3,
    "totalTokensCount": 12,
    "cachedPromptTokensCount": 4,
    "usedDraftModelKey": "acme/draft",
    "totalDraftTokensCount": 6,
    "acceptedDraftTokensCount": 3,
    "rejectedDraftTokensCount": 2,
    "ignoredDraftTokensCount": 1,
}

MODEL = {
    "type": "llm",
    "modelKey": "acme/tiny-1b",
    "format": "gguf",
    "displayName": "Tiny 1B",
    "publisher": "acme",
    "path": "acme/tiny-1b/tiny-Q4.gguf",
    "sizeBytes": 700000000,
    "indexedModelIdentifier": "acme/tiny-1b/tiny-Q4.gguf",
    "deviceIdentifier": None,
    "paramsString": "1B",
    "architecture": "llama",
    "quantization": {"name": "Q4_K_M", "bits": 4},
    "variants": ["acme/tiny-1b@q4_k_m", "acme/tiny-1b@q8_0"],
    "selectedVariant": "acme/tiny-1b@q4_k_m",
    "vision": False,
    "trainedForToolUse": True,
    "maxContextLength": 32768,
}

INSTANCE = MODEL | {
    "identifier": "acme/tiny-1b:2",
    "instanceReference": "Qx81mZ",
    "ttlMs": 3600000,
    "lastUsedTime": 1.7e12,
    "contextLength": 4096,
}

DETAILS = {
    "totalPromptTokenCount": 9,
    "cachedTokenCount": 4,
    "processedPromptTokenCount": 3,
    "unprocessedPromptTokenCount": 2,
}
