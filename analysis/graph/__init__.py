"""Four agents on LangGraph: Indicator, then Pattern and Trend in parallel, then Decision. See docs/agents.md.

graph: order of the agents; agents: requests and reports; prompts: system prompts; answer_schemas: allowed answers;
model_middleware: one model call with its retries; recorded_transport: HTTP traffic; checkpoints: recovery after a
crash.
"""

import os

# The libraries read these variables on import. Strict: a checkpoint is only data, never code.
os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
# Prompts, answers and reports must not be sent to a tracing service.
for _name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING_V2", "LANGCHAIN_TRACING"):
    os.environ[_name] = "false"
