"""Compares dga with Hugging Face transformers on small random models.

    hf_parity.py --dga build/dga [unittest arguments]

Every test writes a model with one side and reads it with the other: log-probabilities, losses of AdamW steps, exports.
Nothing here shares code with dga; it is run through its command line alone.
"""

import argparse
import copy
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

try:
    import numpy as np
    import sentencepiece
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
except ImportError as missing:
    print(f"{missing}: install tests/python/requirements.txt (scripts/setup.sh does) into {sys.prefix}")
    sys.exit(1 if os.environ.get("CI") else 77)

DGA = None
TOLERANCE = 1e-4  # of a log-probability and of a loss

STEPS, ROWS, CONTEXT = 20, 4, 48
RATE, DECAY, CLIP = 3e-3, 0.1, 1.0

SHAPE = dict(vocab_size=256, hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=4, max_position_embeddings=128, rms_norm_eps=1e-5, initializer_range=0.15,
             tie_word_embeddings=False, attn_implementation="sdpa")

LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
YARN = dict(rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=32)
MODELS = {
    "mha": {},
    "gqa": dict(num_key_value_heads=2),
    "mqa": dict(num_key_value_heads=1),
    "tied": dict(tie_word_embeddings=True),
    "head_dim": dict(head_dim=24, num_key_value_heads=2),
    "odd_vocabulary": dict(vocab_size=331),
    "theta": dict(rope_parameters=dict(rope_type="default", rope_theta=123456.0)),
    "linear": dict(rope_parameters=dict(rope_type="linear", rope_theta=1e4, factor=4.0)),
    "yarn": dict(rope_parameters=YARN),
    "yarn_untruncated": dict(rope_parameters=dict(YARN, truncate=False, beta_fast=24.0, beta_slow=2.0)),
    "yarn_mscale": dict(rope_parameters=dict(YARN, mscale=0.7, mscale_all_dim=1.3)),
    "yarn_attention_factor": dict(rope_parameters=dict(YARN, attention_factor=1.2)),
    "llama3": dict(rope_parameters=LLAMA3, num_key_value_heads=2),
}


def run_dga(*arguments):
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    command = [str(DGA), *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    if result.returncode != 0:
        raise AssertionError(f"{' '.join(command)} returned {result.returncode}:\n{result.stdout}")
    return result.stdout


def make_model(seed=0, dtype=torch.float32, **changes):
    torch.manual_seed(seed)
    # A copy, since transformers completes the dictionaries it is given.
    model = LlamaForCausalLM(LlamaConfig(**copy.deepcopy({**SHAPE, **changes})))
    with torch.no_grad():  # norms away from 1, so that they show
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).eval()


def load_hf(folder):
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa",
                                                         output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise AssertionError(f"{folder}: {kind}: {report[kind]}")
    return model.eval()


def hf_log_probs(model, tokens, context):
    """One value a token, NaN for the first of each window."""
    values = np.full(len(tokens), np.nan, dtype=np.float32)
    for start in range(0, len(tokens), context):
        window = torch.from_numpy(tokens[start:start + context].astype(np.int64))
        with torch.no_grad():
            logits = model(window[None]).logits[0].float()
        scores = torch.log_softmax(logits[:-1], -1).gather(1, window[1:, None])[:, 0]
        values[start + 1:start + len(window)] = scores.numpy()
    return values


def write_bin(path, tokens):
    tokens.astype("<u4" if path.suffix == ".u32" else "<u2").tofile(path)
    return path


def write_run_config(folder, model_section, train, **sections):
    """A run on random tokens whose rows follow each other; returns the YAML file and the tokens."""
    tokens = np.random.default_rng(2).integers(0, SHAPE["vocab_size"], (STEPS + 1) * ROWS * CONTEXT + 1)
    config = {
        "run": {"name": "parity", "folder": str(folder / "run"), "device": "cpu"},
        "model": model_section,
        "data": {"context_length": CONTEXT, "bos": False, "eos": False, "cache": str(folder / "cache"),
                 "sources": [{"name": "tokens", "paths": [str(write_bin(folder / "train.u16", tokens))]}]},
        "optimizer": {"learning_rate": RATE, "betas": [0.9, 0.95], "epsilon": 1e-8, "weight_decay": DECAY,
                      "clip_norm": CLIP},
        "schedule": {"kind": "constant", "warmup_steps": 0},
        "train": {"steps": STEPS, "global_batch_size": ROWS, "micro_batch_size": 2, "dtype": "fp32", **train},
        **sections,
    }
    path = folder / "run.yaml"
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return path, tokens


class Parity(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="dga_parity_")
        self.addCleanup(temporary.cleanup)
        self.root = self.folder = pathlib.Path(temporary.name)

    def random_tokens(self, count, vocab_size=SHAPE["vocab_size"], seed=1):
        return np.random.default_rng(seed).integers(0, vocab_size, count)

    def dga_score(self, model_folder, tokens, context, *more, suffix=".u16"):
        source = write_bin(self.folder / f"score{suffix}", tokens)
        out = self.folder / "score.f32"
        run_dga("score", "--model", model_folder, "--input", source, "--context", context, "--out", out, *more)
        return np.fromfile(out, dtype="<f4")

    def assert_close(self, actual, expected, tolerance=TOLERANCE):
        self.assertEqual(actual.shape, expected.shape)
        self.assertTrue(np.array_equal(np.isnan(actual), np.isnan(expected)), "NaN at other places")
        worst = np.nanargmax(np.abs(actual - expected))
        self.assertLessEqual(abs(actual[worst] - expected[worst]), tolerance, f"at {worst}")

    def assert_scores_agree(self, folder, vocab_size=SHAPE["vocab_size"], **options):
        tokens = self.random_tokens(250, vocab_size)
        self.assert_close(self.dga_score(folder, tokens, 100, **options), hf_log_probs(load_hf(folder), tokens, 100))


class Scores(Parity):
    """Log-probabilities of folders that transformers wrote."""

    def test_models(self):
        for name, changes in MODELS.items():
            with self.subTest(name):
                folder = self.folder / name
                make_model(**changes).save_pretrained(folder)
                self.assert_scores_agree(folder, changes.get("vocab_size", SHAPE["vocab_size"]))

    def test_wide_tokens(self):
        make_model().save_pretrained(self.folder / "model")
        self.assert_scores_agree(self.folder / "model", suffix=".u32")

    def test_half_precision_files(self):
        for dtype in (torch.float16, torch.bfloat16):
            with self.subTest(str(dtype)):
                folder = self.folder / str(dtype)
                make_model(dtype=dtype).save_pretrained(folder)
                self.assert_scores_agree(folder)

    def test_shards(self):
        make_model().save_pretrained(self.folder / "model", max_shard_size="20KB")
        self.assertGreater(len(list((self.folder / "model").glob("*.safetensors"))), 2)
        self.assert_scores_agree(self.folder / "model")

    def test_transformers_4_config(self):
        for name in ("gqa", "linear", "yarn", "llama3"):
            with self.subTest(name):
                folder = self.folder / name
                make_model(**MODELS[name]).save_pretrained(folder)
                expected = hf_log_probs(load_hf(folder), self.random_tokens(250), 100)
                config = json.loads((folder / "config.json").read_text())
                rope = config.pop("rope_parameters")
                config["rope_theta"] = rope.pop("rope_theta")
                rope["type"] = rope.pop("rope_type")
                config["rope_scaling"] = None if rope["type"] == "default" else rope
                config["torch_dtype"] = config.pop("dtype")
                (folder / "config.json").write_text(json.dumps(config))
                self.assert_close(self.dga_score(folder, self.random_tokens(250), 100), expected)

    def test_ntk(self):
        make_model().save_pretrained(self.folder / "model")
        dim = SHAPE["hidden_size"] // SHAPE["num_attention_heads"]
        theta = 1e4 * 4.0 ** (dim / (dim - 2))
        tokens = self.random_tokens(250)
        stretched = make_model(rope_parameters=dict(rope_type="default", rope_theta=theta))
        actual = self.dga_score(self.folder / "model", tokens, 100, "--set", "model.rope_scaling.type=ntk", "--set",
                                "model.rope_scaling.factor=4")
        self.assert_close(actual, hf_log_probs(stretched, tokens, 100))

    def test_a_difference_would_be_seen(self):
        make_model(**MODELS["linear"]).save_pretrained(self.folder / "model")
        tokens = self.random_tokens(250)
        other = hf_log_probs(make_model(), tokens, 100)
        with self.assertRaises(AssertionError):
            self.assert_close(self.dga_score(self.folder / "model", tokens, 100), other)


class Training(Parity):
    """The same AdamW steps on the same batches."""

    def hf_losses(self, model, tokens):
        kept, decayed = [], []
        for name, parameter in model.named_parameters():
            (kept if name.endswith("norm.weight") or "embed_tokens" in name else decayed).append(parameter)
        optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY},
                                       {"params": kept, "weight_decay": 0.0}],
                                      lr=RATE, betas=(0.9, 0.95), eps=1e-8)
        losses = []
        for step in range(STEPS):
            begin = step * ROWS * CONTEXT
            stream = torch.from_numpy(tokens[begin:begin + ROWS * CONTEXT + 1].astype(np.int64))
            inputs, labels = stream[:-1].view(ROWS, -1), stream[1:]
            logits = model(inputs).logits
            loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
        return losses

    def dga_losses(self):
        lines = (self.folder / "run/metrics.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(line)["step"] for line in lines], list(range(1, STEPS + 1)))
        return [json.loads(line)["loss"] for line in lines]

    def test_losses_and_export(self):
        cases = {
            "mha": (MODELS["mha"], {}),
            "gqa_tied_yarn_recomputed": (dict(num_key_value_heads=2, tie_word_embeddings=True, rope_parameters=YARN),
                                         {"recompute": "block"}),
        }
        for name, (changes, train) in cases.items():
            with self.subTest(name):
                self.folder = self.root / name
                self.folder.mkdir()
                model = make_model(**changes)
                model.save_pretrained(self.folder / "start")
                path, tokens = write_run_config(self.folder, {"path": str(self.folder / "start")}, train)
                run_dga("train", path)
                expected = self.hf_losses(model.train(), tokens)
                self.assertGreater(max(expected) - min(expected), 0.1)  # the steps did something
                self.assert_close(np.array(self.dga_losses()), np.array(expected))
                run_dga("export", self.folder / "run", "--output", self.folder / "exported", "--check")
                self.assert_scores_agree(self.folder / "exported")
                exported = dict(load_hf(self.folder / "exported").named_parameters())
                for key, parameter in model.named_parameters():
                    # AdamW magnifies rounding where a gradient is near 0.
                    error = (exported[key] - parameter).abs().max().item()
                    self.assertLessEqual(error, 0.05 * RATE * STEPS, key)


class Exports(Parity):
    """Folders that dga wrote, read by transformers."""

    def make_tokenizer(self):
        # Text of this file: any will do.
        text = self.folder / "text.txt"
        text.write_text("\n".join(line.strip() for line in pathlib.Path(__file__).read_text().splitlines()))
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_prefix=str(self.folder / "spm"), vocab_size=400, model_type="bpe",
            byte_fallback=True, character_coverage=0.9995, normalization_rule_name="identity",
            remove_extra_whitespaces=False, split_digits=True, minloglevel=2)
        return self.folder / "spm.model"

    def test_a_model_of_ones_own(self):
        tokenizer = self.make_tokenizer()
        shape = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.1,
                 "rope_scaling": {"type": "ntk", "factor": 2.0}}
        path, _ = write_run_config(self.folder, shape, {"steps": 2},
                                   attention={"kind": "dga", "focal_ratio": 1.0, "group_size": 5})
        run_dga("train", path, "--set", f"data.tokenizer={tokenizer}")
        exported = self.folder / "exported"
        run_dga("export", self.folder / "run", "--output", exported, "--check", "--max-shard-size", "20KB")
        self.assertGreater(len(list(exported.glob("model-*.safetensors"))), 2)
        # focal_ratio 1 is full attention, so transformers agrees although dga runs the recorded kind.
        recorded = json.loads((exported / "config.json").read_text())["dga_attention"]
        self.assertEqual((recorded["kind"], recorded["group_size"]), ("dga", 5))
        self.assert_scores_agree(exported, 400)
        self.check_tokenizer(exported, tokenizer)

    def check_tokenizer(self, exported, tokenizer):
        self.assertEqual((exported / "tokenizer.model").read_bytes(), tokenizer.read_bytes())
        library = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
        loaded = AutoTokenizer.from_pretrained(exported)
        # Not text that begins with a space: there transformers 5 drops the marker that sentencepiece adds.
        for text in ("def make_model(seed=0):", "two  spaces  and more ", "f\u00fcr \u4e16\u754c \U0001f642", "12345"):
            self.assertEqual(loaded.encode(text), [library.bos_id()] + library.encode(text), text)
        config = transformers.AutoConfig.from_pretrained(exported)
        self.assertEqual((config.bos_token_id, config.eos_token_id), (library.bos_id(), library.eos_id()))
        generation = transformers.GenerationConfig.from_pretrained(exported)
        self.assertEqual((generation.bos_token_id, generation.eos_token_id), (library.bos_id(), library.eos_id()))

    def test_every_rope_survives(self):
        """dga import reads a folder and writes its own config.json, in other shards and types."""
        for name in ("theta", "linear", "yarn_untruncated", "yarn_mscale", "llama3", "tied", "head_dim"):
            with self.subTest(name):
                source, target = self.folder / name, self.folder / f"{name}_out"
                make_model(**MODELS[name]).save_pretrained(source)
                run_dga("import", source, "--output", target, "--max-shard-size", "20KB")
                tokens = self.random_tokens(100)
                actual, expected = (hf_log_probs(load_hf(f), tokens, 100) for f in (target, source))
                self.assertTrue(np.array_equal(actual, expected, equal_nan=True))

    def test_conversion_to_bfloat16(self):
        make_model().save_pretrained(self.folder / "source")
        run_dga("import", self.folder / "source", "--output", self.folder / "out", "--dtype", "bf16")
        source, out = (dict(load_hf(self.folder / f).named_parameters()) for f in ("source", "out"))
        for name, parameter in source.items():
            self.assertTrue(torch.equal(parameter.to(torch.bfloat16).float(), out[name]), name)
        self.assertEqual(transformers.AutoConfig.from_pretrained(self.folder / "out").dtype, torch.bfloat16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dga", required=True, type=pathlib.Path, help="the program to compare")
    options, rest = parser.parse_known_args()
    DGA = options.dga.resolve()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    unittest.main(argv=[sys.argv[0], *rest])
