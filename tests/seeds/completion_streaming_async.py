import lmcli as lms

async with lms.AsyncClient() as client:
    model = await client.llm.model("qwen2.5-7b-instruct")

    prediction_stream = await model.complete_stream("My name is", config={"maxTokens": 100})

    async for fragment in prediction_stream:
        print(fragment.content, end="", flush=True)
    print()

    result = prediction_stream.result()

    print("Model used:", result.model_info.display_name)
    print("Predicted tokens:", result.stats.predicted_tokens_count)
    print("Time to first token (seconds):", result.stats.time_to_first_token_sec)
    print("Stop reason:", result.stats.stop_reason)
