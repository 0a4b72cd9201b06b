#!/usr/bin/env python3
"""Makes tests/golden/chat.json: conversations as transformers renders them by the templates that models' makers
publish, written here from the makers' descriptions of their formats, and the ids that tokenizers give for them.

    pip install transformers tokenizers
    python3 tests/golden/make_chat.py

conversations   lists of messages
templates       NAME: texts (of each conversation), prompts (of each that ends with the user's message, with what
                makes the model answer; else null), tokenizers: FILE of tests/golden/tokenizers, rename (pairs of texts
                to be replaced in that file, in this order), ids (of each text)
"""

import json
import pathlib

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent

# https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-2: contents are stripped; the system's is a part
# of the first user's.
LLAMA2 = (
    "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
    "{% set block = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' if loop.first and system is not none else '' %}"
    "{{ bos_token + '[INST] ' + (block + m.content).strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
# https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3: contents are trimmed.
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-chat_templates (the first versions)
MISTRAL = (
    "{% set system = messages[0].content if messages[0].role == 'system' else none %}"
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (system + '\n\n' if loop.first and system is not none else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)

CHATML_TOKENS = [["<|begin|>", "<|im_start|>"], ["<|end|>", "<|im_end|>"]]
LLAMA3_TOKENS = [
    ["<|begin|>", "<|begin_of_text|>"],
    ["<|end|>", "<|eot_id|>"],
    ['"<|end"', '"<|end_header_id|>"'],
    ["<tool>", "<|start_header_id|>"],
]
TEMPLATES = {  # the template, what begins and ends a text, tokenizers
    "chatml": (CHATML, "", "", [("qwen2", CHATML_TOKENS), ("smollm", CHATML_TOKENS)]),
    "llama2": (LLAMA2, "<s>", "</s>", [("llama2", []), ("llama2_new", [])]),
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>", [("llama3", LLAMA3_TOKENS)]),
    "mistral": (MISTRAL, "<s>", "</s>", [("llama2", []), ("llama2_new", [])]),
}


def conversation(*turns):
    return [{"role": role, "content": content} for role, content in turns]


CONVERSATIONS = [
    conversation(("user", "What time is it?"), ("assistant", "It is about noon.")),
    conversation(("system", "You are brief."), ("user", "Who was first?"), ("assistant", "They were.")),
    conversation(
        ("system", "Answer in one line.\nNo more."),
        ("user", "One?"), ("assistant", "1"),
        ("user", "Two, and then?"), ("assistant", "2, 3"),
        ("user", "And now?"), ("assistant", "4"),
    ),
    conversation(
        ("system", "Ünïcödé 🙂 e\u0301"), ("user", "你好,世界! привет \u00a0مرحبا"), ("assistant", "これはテスト 👩‍👩‍👧‍👦 ✅")
    ),
    conversation(
        ("system", " s \n"), ("user", "  padded\n\n"), ("assistant", "\t so is this \n"),
        ("user", "\u3000wide\u2003"), ("assistant", " \u2028"),
    ),
    conversation(("user", ""), ("assistant", "")),
    conversation(("user", "def f(x):\n    return {'a': x}\n"), ("assistant", "```\nprint(\"[INST] % {{ }}\")\n```")),
    conversation(("user", "And who are you?")),
    conversation(("system", "You are brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?")),
]  # fmt: skip


def read_tokenizer(file, renames):
    text = (HERE / "tokenizers" / f"{file}.json").read_text()
    for old, new in renames:
        assert old in text
        text = text.replace(old, new)
    return Tokenizer.from_str(text)


def render(template):
    source, begin, end, files = TEMPLATES[template]
    found = {"texts": [], "prompts": [], "tokenizers": []}
    for file, renames in files:
        plain = read_tokenizer(file, renames)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token=begin or None, eos_token=end or None)
        tokenizer.chat_template = source
        texts, prompts, ids = [], [], []
        for messages in CONVERSATIONS:
            texts.append(tokenizer.apply_chat_template(messages, tokenize=False))
            asks = messages[-1]["role"] == "user"
            prompts.append(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) if asks else None
            )
            whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
            ids.append(list(whole["input_ids"]))
        found |= {"texts": texts, "prompts": prompts}
        found["tokenizers"].append({"file": file, "rename": renames, "ids": ids})
    return found


if __name__ == "__main__":
    out = {"conversations": CONVERSATIONS, "templates": {name: render(name) for name in TEMPLATES}}
    (HERE / "chat.json").write_text(json.dumps(out, ensure_ascii=False) + "\n")
