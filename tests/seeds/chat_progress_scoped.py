import lmcli as lms

with lms.Client() as client:
    llm = client.llm.model()

    response = llm.respond(
        "What is LM Studio?",
        on_prompt_processing_progress = (lambda progress: print(f"{progress*100}% complete")),
    )
