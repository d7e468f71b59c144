#!/usr/bin/env python3
"""Time of a CPU training step: dga against the same model written with PyTorch's own operators, run eagerly.

Both sides train a LLaMA of configs/model/tiny.yaml's shape in fp32 on rows of the same size, with gradient clipping and
fused AdamW, reading the loss back at each step. They alternate in short rounds, so that a busy machine slows both; the
figure of a side is the median over its steps, warm-up steps of each round left out. Writes a line of markdown.
"""
import argparse
import json
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import torch
import torch.nn.functional as F

VOCAB, HIDDEN, MIDDLE, LAYERS, HEADS, KV_HEADS = 4096, 128, 352, 4, 4, 2
HEAD_DIM = HIDDEN // HEADS
WARM_UP = 2


class Peer:
    """The model and its step, with the fastest eager operators PyTorch has for each part."""

    def __init__(self, context):
        shapes = []
        for _ in range(LAYERS):
            shapes += [(HIDDEN,), (HIDDEN, HIDDEN), (KV_HEADS * HEAD_DIM, HIDDEN), (KV_HEADS * HEAD_DIM, HIDDEN),
                       (HIDDEN, HIDDEN), (HIDDEN,), (MIDDLE, HIDDEN), (MIDDLE, HIDDEN), (HIDDEN, MIDDLE)]
        shapes = [(VOCAB, HIDDEN)] + shapes + [(HIDDEN,), (VOCAB, HIDDEN)]
        self.parameters = [torch.nn.Parameter(torch.randn(s) * 0.02 if len(s) > 1 else torch.ones(s)) for s in shapes]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        frequency = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
        angle = torch.outer(torch.arange(context).float(), frequency)
        angle = torch.cat((angle, angle), -1)
        self.cos, self.sin = angle.cos()[None, None], angle.sin()[None, None]  # [1, 1, L, D]

    def rope(self, x):
        half = HEAD_DIM // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * self.cos + turned * self.sin

    def loss(self, tokens, labels):
        rows, length = tokens.shape
        weights = iter(self.parameters)
        x = F.embedding(tokens, next(weights))
        for _ in range(LAYERS):
            norm, q, k, v, o, post_norm, gate, up, down = (next(weights) for _ in range(9))
            a = F.rms_norm(x, (HIDDEN,), norm, 1e-5)
            q = self.rope(F.linear(a, q).view(rows, length, HEADS, HEAD_DIM).transpose(1, 2))
            k = self.rope(F.linear(a, k).view(rows, length, KV_HEADS, HEAD_DIM).transpose(1, 2))
            v = F.linear(a, v).view(rows, length, KV_HEADS, HEAD_DIM).transpose(1, 2)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            x = x + F.linear(y.transpose(1, 2).reshape(rows, length, HIDDEN), o)
            m = F.rms_norm(x, (HIDDEN,), post_norm, 1e-5)
            x = x + F.linear(F.silu(F.linear(m, gate)) * F.linear(m, up), down)
        x = F.rms_norm(x, (HIDDEN,), next(weights), 1e-5)
        return F.cross_entropy(F.linear(x, next(weights)).flatten(0, 1), labels.flatten())

    def step(self, tokens, labels):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(tokens, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()


def peer_round(peer, rows, context, steps):
    times = []
    for _ in range(steps + WARM_UP):
        tokens = torch.randint(0, VOCAB, (rows, context + 1))
        start = time.perf_counter()
        peer.step(tokens[:, :-1], tokens[:, 1:])
        times.append((time.perf_counter() - start) * 1e3)
    return times[WARM_UP:]


def dga_round(options, folder, number):
    run = folder / f"run{number}"
    settings = [
        f"run.folder={run}", "run.device=cpu", f"parallel.threads={options.threads}",
        f"model={{vocab_size: {VOCAB}, hidden_size: {HIDDEN}, intermediate_size: {MIDDLE}, num_hidden_layers: {LAYERS},"
        f" num_attention_heads: {HEADS}, num_key_value_heads: {KV_HEADS}}}",
        f"data={{context_length: {options.context}, bos: false, eos: false, cache: {folder}/cache,"
        f" sources: [{{name: bench, format: u16, paths: [{folder}/tokens.u16]}}]}}",
        f"train={{steps: {options.steps + WARM_UP}, global_batch_size: {options.rows},"
        f" micro_batch_size: {options.rows}}}", "checkpoint.every_steps=0", "log.level=warning"]
    command = [options.dga, "train"] + [word for setting in settings for word in ("--set", setting)]
    subprocess.run(command, check=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["step_ms"] for line in lines][WARM_UP:]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dga", required=True, help="the program")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=8, help="measured steps of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--limit", type=float, default=1.2, help="fail above this ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    peer, peer_times, dga_times = Peer(options.context), [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = random.Random(1)
        tokens = [source.randrange(VOCAB) for _ in range(400_000)]
        (folder / "tokens.u16").write_bytes(struct.pack(f"<{len(tokens)}H", *tokens))
        for number in range(options.rounds):
            peer_times += peer_round(peer, options.rows, options.context, options.steps)
            dga_times += dga_round(options, folder, number)
    peer_ms, dga_ms = statistics.median(peer_times), statistics.median(dga_times)
    ratio = dga_ms / peer_ms
    print(f"| {options.threads} | {options.rows} x {options.context} | {peer_ms:.1f} | {dga_ms:.1f} | {ratio:.2f} | "
          f"{min(peer_times):.1f} | {min(dga_times):.1f} | {min(dga_times) / min(peer_times):.2f} |")
    return 0 if ratio <= options.limit else 1


if __name__ == "__main__":
    sys.exit(main())
