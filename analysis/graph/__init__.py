"""Four agents on LangGraph: Indicator, then Pattern and Trend side by side, then Decision. docs/agents.md shows it.

graph: who follows whom; agents: what each is asked and reports; prompts: what they are told; readings: what they may
answer; asking: one question to a model, with its retries; wire: what went over the line; checkpoints: where an
analysis goes on after a crash.
"""

import os

# Read when the libraries are imported. A checkpoint is data: nothing else is ever loaded from one.
os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
# Prompts, answers and reports go to the model that was asked, and to nobody's tracing service.
for _name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGCHAIN_TRACING"):
    os.environ[_name] = "false"
