#!/usr/bin/env python3
"""A training step of LLaMA-2-7B with the fastest Python stack on one GPU: transformers' LLaMA, Liger kernels, cuDNN
attention, gradient checkpointing, pure-bf16 fused AdamW. The peer of `dga bench train`, same shapes. On several GPUs, as
`torchrun --nproc-per-node N scripts/bench_train_peer.py`, weights, gradients and optimizer are sharded by FSDP2 and
every rank trains on a row of its own.

Needs torch, transformers and liger-kernel with a CUDA GPU; --check only says whether they are there. Rows are cut from
the text in data/ with the tokenizer there where sentencepiece is installed (documents joined by an end token, in file
order), else random token ids of the same vocabulary; tokens do not change the time. Prints a line and, with --json, a
file with the keys of `dga bench train` that have a meaning here.
"""
import argparse
import contextlib
import glob
import gzip
import io
import json
import os
import pathlib
import random
import statistics
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEAKS = (("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989e12), ("H200", 989e12), ("A100", 312e12))
SHAPE = dict(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
             num_key_value_heads=32, max_position_embeddings=131072, rms_norm_eps=1e-5, tie_word_embeddings=False)


def missing_packages():
    missing = []
    for name in ("torch", "transformers", "liger_kernel"):
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if "torch" not in missing:
        import torch
        if not torch.cuda.is_available():
            missing.append("a CUDA GPU")
    return missing


def read_texts():
    """Texts of the shipped sample, proof-pile form (gzip needs no package)."""
    for path in sorted(glob.glob(str(ROOT / "data/proof-pile/train/*.jsonl.gz"))):
        with gzip.open(path, "rb") as file:
            for line in io.TextIOWrapper(file, encoding="utf-8"):
                yield json.loads(line)["text"]


def token_stream(count):
    """`count` token ids: the packed text, repeated where it is short."""
    try:
        import sentencepiece
        processor = sentencepiece.SentencePieceProcessor(model_file=str(ROOT / "data/tokenizer.model"))
    except ImportError:
        source = random.Random(1)
        return [source.randrange(SHAPE["vocab_size"]) for _ in range(count)]
    tokens = []
    while len(tokens) < count:
        for text in read_texts():
            tokens += processor.encode(text) + [processor.eos_id()]
            if len(tokens) >= count:
                break
    return tokens[:count]


def make_model(torch, context):
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    from transformers import LlamaConfig, LlamaForCausalLM
    apply_liger_kernel_to_llama()  # RMSNorm, RoPE, SwiGLU, fused projection and cross-entropy
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE, attn_implementation="sdpa"))
    torch.set_default_dtype(torch.float32)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.config.use_cache = False
    return model.train()


def shard(torch, model):
    """FSDP2 layer by layer, as torchtitan does it."""
    from torch.distributed.fsdp import fully_shard
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)


def flops_per_token(model, context):
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1 and "embed_tokens" not in n)
    width = SHAPE["hidden_size"]
    return 6 * matrices + 12 * width * SHAPE["num_hidden_layers"] * (context + 1) / 2


def measure(options):
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    context = options.context * 1024
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    torch.manual_seed(1)
    model = make_model(torch, context)
    if world > 1:
        torch.distributed.init_process_group("nccl")
        shard(torch, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rows = torch.tensor(token_stream(context * world * (options.steps + options.warmup))).view(-1, world, 1, context)
    attention = sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if not options.flash else contextlib.nullcontext()
    times, losses = [], []
    with attention:
        for row in rows[:, rank]:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            tokens = row.pin_memory().cuda(non_blocking=True)
            loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            end.record()
            losses.append(loss.detach())
            times.append((start, end))
    torch.cuda.synchronize()
    seconds = [start.elapsed_time(end) / 1e3 for start, end in times][options.warmup:]
    card = torch.cuda.get_device_name()
    result = {"card": card, "gpus": world, "torch": torch.__version__, "attention": "full, peer",
              "context_length": context,
              "parameters": sum(p.numel() for p in model.parameters()), "steps": len(seconds),
              "step_s": statistics.median(seconds), "tokens_per_s": world * context * len(seconds) / sum(seconds),
              "peak_memory_bytes": torch.cuda.max_memory_allocated(),
              "losses": [loss.item() for loss in losses[options.warmup:]]}
    peak = next((peak for name, peak in PEAKS if name in card), None)
    if peak:
        result["mfu"] = result["tokens_per_s"] * flops_per_token(model, context) / peak / world
    if world > 1:
        torch.distributed.destroy_process_group()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the packages and a GPU are there")
    parser.add_argument("--context", type=int, default=8, help="tokens of a row, in units of 1024")
    parser.add_argument("--steps", type=int, default=8, help="measured steps")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--flash", action="store_true", help="let torch choose the attention kernel instead of cuDNN's")
    parser.add_argument("--json", help="write the result to this file")
    options = parser.parse_args()
    missing = missing_packages()
    if missing:
        print("bench_train_peer: no peer here, it lacks " + ", ".join(missing), file=sys.stderr)
        return 1
    if options.check:
        return 0
    result = measure(options)
    if int(os.environ.get("RANK", 0)) > 0:
        return 0
    print(f"{result['card']}, peer, {result['context_length']} tokens: {result['step_s']:.4f} s  "
          f"{result['tokens_per_s']:.0f} tokens/s  peak {result['peak_memory_bytes'] / 2**30:.2f} GiB")
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
