"""Models of a few thousand weights, built from their configurations."""

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)  # fmt: skip

IDS = torch.tensor([[5, 17, 3, 99, 42, 8], [61, 2, 77, 30, 11, 54]])
PIXELS = torch.linspace(-1, 1, 2 * 3 * 8 * 8).sin().view(2, 3, 8, 8)


def gpt2(tied=True, model_class=GPT2LMHeadModel, vocabulary=100, layers=2, **options):
    """Conv1D layers inside, a Linear head of 100 x 32, which shares the input embedding unless `tied=False`."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=layers, n_embd=32, n_head=2, vocab_size=vocabulary, n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, pad_token_id=0, tie_word_embeddings=tied, **options,
    )  # fmt: skip
    return model_class(config).eval()


def llama(tied=False, layers=2):
    """Linear layers only; 4 query heads share 2 key and value heads."""
    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=100, max_position_embeddings=32, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def bert(layers=1):
    """An encoder with a classifier of 3 labels."""
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers, hidden_size=32, intermediate_size=48, num_attention_heads=2, vocab_size=100,
        max_position_embeddings=32, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def vit(layers=1):
    """Four patches of an 8 x 8 image, and a classifier of 3 labels."""
    torch.manual_seed(0)
    config = ViTConfig(
        num_hidden_layers=layers, hidden_size=32, intermediate_size=48, num_attention_heads=2, image_size=8,
        patch_size=4, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return ViTForImageClassification(config).eval()


@torch.no_grad()
def logits(model, **inputs):
    return model(**(inputs or {"input_ids": IDS})).logits


@torch.no_grad()
def shake(model, adapter="default", by=0.1, seed=1):
    """Moves an adapter away from its start, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.base_model.lora_bank[adapter].parameters():
        parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def moved(model, by=0.1, seed=1):
    """A PEFT model with every number that trains away from its start."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return model.eval()
