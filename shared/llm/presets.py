"""The kinds of server behind OpenAI's protocol, and how each differs. Data only: no SDK is imported for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Preset:
    """One kind of server.

    `structured_output` is what it makes of a JSON schema: it holds the answer to it (`json_schema`), promises some
    JSON object (`json_object`), or promises nothing (`none`). For the last two the schema is told in words.
    """

    name: str
    label: str
    base_url: str
    key_variable: str | None = None
    structured_output: Literal["json_schema", "json_object", "none"] = "json_schema"
    new_token_limit: bool = False
    """The limit is called max_completion_tokens; OpenAI's newer models refuse the old name, others know no new one."""

    @property
    def base_url_variable(self) -> str:
        return f"{self.name.upper()}_BASE_URL"


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("openai", "OpenAI", "https://api.openai.com/v1", "OPENAI_API_KEY", new_token_limit=True),
        Preset("deepseek", "DeepSeek", "https://api.deepseek.com", "DEEPSEEK_API_KEY", structured_output="json_object"),
        Preset("gemini", "Gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
        Preset("ollama", "Ollama", "http://127.0.0.1:11434/v1"),
        Preset("vllm", "vLLM", "http://127.0.0.1:8000/v1"),
        Preset("llamacpp", "llama.cpp", "http://127.0.0.1:8080/v1"),
    )
}
