import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model("qwen2.5-7b-instruct")

    result = await model.complete("My name is", config={"maxTokens": 100})

    print(result)

    print("Model used:", result.model_info.display_name)
    print("Predicted tokens:", result.stats.predicted_tokens_count)
    print("Time to first token (seconds):", result.stats.time_to_first_token_sec)
    print("Stop reason:", result.stats.stop_reason)
