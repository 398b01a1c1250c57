import lmcli as lmstudio

with lmstudio.Client() as client:
    llm = client.llm.model()

    prediction = llm.respond_stream("What is LM Studio?")
    for token in prediction:
        print(token, end="", flush=True)

    response = llm.respond("What is LM Studio?")
    print(response)
