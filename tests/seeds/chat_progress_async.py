import lmcli as lms

async with lms.AsyncClient() as client:
    llm = await client.llm.model()

    response = await llm.respond(
        "What is LM Studio?",
        on_prompt_processing_progress = (lambda progress: print(f"{progress*100}% complete")),
    )
