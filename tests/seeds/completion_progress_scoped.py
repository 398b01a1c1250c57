import lmcli as lms

with lms.Client() as client:
    llm = client.llm.model()

    completion = llm.complete(
        "My name is",
        on_prompt_processing_progress = (lambda progress: print(f"{progress*100}% processed")),
    )
