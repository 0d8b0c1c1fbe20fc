"""Small tables as GLUE ships them, and models to classify with."""

from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, LlamaForCausalLM

from tests.tiny_models import gpt2, llama

ANIMALS, PLACES = ("cat", "dog", "fox"), ("mat", "roof", "wall", "hill")


def sentences(count):
    """Texts in which the animal is the label: (text, "1" for a cat, else "0")."""
    found = []
    for i in range(count):
        animal = ANIMALS[i % 3]
        found.append((f"the {animal} sat on the {PLACES[i % 4]} and saw {i % 12} birds", str(int(animal == "cat"))))
    return found


def write_sst2(folder, train=30, test=12):
    """SST-2's form: a header and two columns."""
    folder.mkdir(exist_ok=True)
    for name, count in (("train", train), ("dev", test)):
        lines = [f"{text}\t{label}\n" for text, label in sentences(count)]
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines), encoding="utf8")
    return folder


def write_model(folder, model, tokenizer_folder):
    """A model folder with the tokeniser of another; a tied Llama's file holds the embedding as the head alone."""
    model.save_pretrained(folder)
    if isinstance(model, LlamaForCausalLM):
        file = folder / "model.safetensors"
        weights = load_file(file)
        weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
        save_file(weights, file, metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder


def bert():
    """An encoder without pooler and classifier in its checkpoint, as language models leave it."""
    return BertForMaskedLM(BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=32, type_vocab_size=2, pad_token_id=0, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ))  # fmt: skip


MODELS = {"gpt2": gpt2, "llama": lambda: llama(tied=True), "bert": bert}
TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"], "bert": ["query", "value"]}
