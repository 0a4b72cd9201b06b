"""Makes tests/golden/tokenizers: small tokenizer.json files of every kind that nibble reads, texts that are hard
to split, and the ids and texts that Hugging Face's tokenizers give for them.

    pip install tokenizers
    python3 tests/golden/make_tokenizers.py             writes the files
    python3 tests/golden/make_tokenizers.py --check N   compares `nibble tokenize` on N random texts

Where several merges are as frequent, the trainer takes any of them, so each run writes other files that agree with
each other.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

HERE = pathlib.Path(__file__).parent
OUT = HERE / "tokenizers"

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TEXTS = [
    "Hello world! It's a test; I'LL don't WE'VE 'tis ſ'ſ 'ſ K\u212a kelvin",
    "  leading   spaces\tand\ttabs \n\n new\r\nlines\r\r  trailing  ",
    " one",
    "\n",
    "a",
    "",
    "Ünïcödé e\u0301 u\u0308 \ufb01 \u00c5\u212b A\u030a \uac01 \u1100\u1161\u11a8",
    "你好,世界!これはテストです。한국어도",
    "привет мир γειά σου κόσμε مرحبا بالعالم שלום עולם नमस्ते दुनिया ไทย",
    "🙂🎉👩‍👩‍👧‍👦🇩🇪 ✅ \U0001f9d1\u200d\U0001f4bb",
    "1234567890 12,345.67 x²+y₃ ½ Ⅷ ٣٤٥ 一二三 ①②",
    "<|begin|>Hi<|end|>there <tool>x<tool> wörd wörds (wörd) swörd <l> a  <l>b <r>   c<r>\n\nd",
    "<s>a</s> b <unk> <tool> x y <|end <|en",
    "\u180e\u200b\u2003\u2028\u2029\x85\xa0x\u3000y\ufeffz\x0b\x0c\x1c\x1d\x1e\x1f",
    "\x01\x7f\x80",
    "word▁with▁meta ▁ x",
    "a" * 28 + " " + "b" * 18 + " " + "ab" * 8,
    "''''s 's'S't\u2019s I’m",
    "_under_score_ __x__ CamelCase HTML5 e-mail foo@bar.com https://x.y/z?a=b&c=d#e",
    "\U0010ffff\ue000\ud7ff",
    "\u0300\u0301combining first",
    "tab\t\tend\t",
]

WORDS = (
    "the of and to in is that it was for with as his on be at by had not are but from or have an they which one you"
    " were her all she there would their we him been has when who will more no if out so said what up its about into"
    " than them can only other new some could time these two may then do first any my now such like our over man"
).split()


def corpus():
    """Text enough for a few hundred merges, from nothing but this file."""
    rng = random.Random(1)
    lines = [" ".join(rng.choice(WORDS) for _ in range(12)).capitalize() + ".\n" for _ in range(400)]
    return lines + TEXTS * 4


def byte_level(pre, normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=500,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_tokens(
        [
            AddedToken("<tool>", normalized=False),
            AddedToken("wörd", single_word=True, normalized=True),
            AddedToken("<l>", lstrip=True, normalized=False),
            AddedToken("<r>", rstrip=True, normalized=False),
            AddedToken("<|end", normalized=True),
        ]
    )
    frame = processors.TemplateProcessing(
        single="<|begin|> $A",
        pair="<|begin|> $A $B",
        special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))],
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), frame])
    return tokenizer


def character_level(scheme):
    """As Llama 2's: characters, and bytes for those that are no token. scheme None: the older files' normalizer."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    words.train_from_iterator(corpus(), BpeTrainer(vocab_size=300, limit_alphabet=80, show_progress=False))
    model = json.loads(words.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % byte for byte in range(256)]
    names += sorted(model["vocab"], key=model["vocab"].get)
    vocab = {name: i for i, name in enumerate(dict.fromkeys(names))}
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<s>", "</s>", "<unk>")])
    tokenizer.add_tokens(
        [AddedToken("<tool> x", normalized=True), AddedToken("<r>", rstrip=True, lstrip=True, normalized=False)]
    )
    if scheme:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tokenizer


def all_kinds():
    split = pre_tokenizers.Split
    raw_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return {
        "llama3": byte_level(pre_tokenizers.Sequence([split(Regex(LLAMA3), "isolated"), raw_bytes]), None, True),
        "qwen2": byte_level(pre_tokenizers.Sequence([split(Regex(QWEN2), "isolated"), raw_bytes]), normalizers.NFC()),
        "smollm": byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])),
        "gpt2": byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "llama2": character_level(None),
        "llama2_new": character_level("first"),
    }


def expected(kinds):
    cases = []
    for text in TEXTS:
        case = {"text": text, "ids": {}, "decoded": {}}
        for name, tokenizer in kinds.items():
            case["ids"][name] = tokenizer.encode(text).ids
            case["decoded"][name] = tokenizer.decode(case["ids"][name])
        cases.append(case)
    # Ids in no order, so that bytes do not meet to characters.
    rng = random.Random(3)
    for _ in range(40):
        case = {"ids": {}, "decoded": {}}
        for name, tokenizer in kinds.items():
            ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randint(1, 12))]
            if "\0" in tokenizer.decode(ids):  # no text of a C test
                ids = [1]
            case["ids"][name] = ids
            case["decoded"][name] = tokenizer.decode(ids)
        cases.append(case)
    return {"cases": cases}


def check(kinds, count):
    rng = random.Random(11)
    pool = "".join(TEXTS) + "".join(WORDS)
    texts = ["".join(rng.choice(pool) for _ in range(rng.randint(1, 60))) for _ in range(count)]
    for name, tokenizer in kinds.items():
        wrong = 0
        for text in texts:
            with tempfile.NamedTemporaryFile() as file:
                file.write(text.encode())
                file.flush()
                command = ["build/nibble", "tokenize", str(OUT / f"{name}.json"), file.name, "--json"]
                ids = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["ids"]
            if ids != tokenizer.encode(text).ids:
                wrong += 1
                print(f"{name}: {text!r} gives {ids}")
        print(f"{name}: {wrong} of {count} texts differ")


if __name__ == "__main__":
    kinds = all_kinds()
    if sys.argv[1:2] == ["--check"]:
        check({name: Tokenizer.from_file(str(OUT / f"{name}.json")) for name in kinds}, int(sys.argv[2]))
    else:
        OUT.mkdir(exist_ok=True)
        for name, tokenizer in kinds.items():
            tokenizer.save(str(OUT / f"{name}.json"), pretty=False)
        (OUT / "texts.json").write_text(json.dumps(expected(kinds)))
