#!/usr/bin/env bash
# Eager attention of transformers 5.23.0 makes NaN of a left-padded batch in float64, where float32 and right padding are fine.
#
# The additive mask holds the least finite number of the model's dtype, but softmax is taken in
# float32, in which float64's least number is -inf: the row of a padding token has nothing left to
# attend to, and its NaN reach the gradients of the real tokens. A model is doubled to serve as a
# reference for gradients or closed forms in float64; eager is what Gemma 2 runs on by default.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

check transformers==5.23.0 torch==2.13.0 numpy==2.4.6 <<'PROGRAM' 3<<'EXPECTED' || exit
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

SIZES = dict(
    vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=2, head_dim=8,
)
MODELS = {
    "gemma2": Gemma2ForCausalLM(Gemma2Config(**SIZES)),
    "llama eager": LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager")),
    "llama sdpa": LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="sdpa")),
}
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
PADDED = {"left": [0, 1, 1, 1], "right": [1, 1, 1, 0]}
for name, model in MODELS.items():
    for dtype in (torch.float32, torch.float64):
        for side, row in PADDED.items():
            model = model.eval().to(dtype)
            mask = torch.tensor([[1, 1, 1, 1], row])
            inputs = model.get_input_embeddings()(IDS).detach().requires_grad_(True)
            logits = model(inputs_embeds=inputs, attention_mask=mask).logits
            (gradient,) = torch.autograd.grad(logits[mask.bool()].square().sum(), inputs)
            print(name, dtype, side, bool(gradient[mask.bool()].isfinite().all()))
PROGRAM
gemma2 torch.float32 left True
gemma2 torch.float32 right True
gemma2 torch.float64 left False
gemma2 torch.float64 right True
llama eager torch.float32 left True
llama eager torch.float32 right True
llama eager torch.float64 left False
llama eager torch.float64 right True
llama sdpa torch.float32 left True
llama sdpa torch.float32 right True
llama sdpa torch.float64 left True
llama sdpa torch.float64 right True
EXPECTED
