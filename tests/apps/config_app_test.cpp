#include "apps/program.h"

namespace dga {
namespace {

class ConfigApp : public ProgramTest {
 protected:
  ConfigApp() {
    folder_.write("model.yaml",
                  "model: {vocab_size: 96, hidden_size: 16, intermediate_size: 40, num_hidden_layers: 2,\n"
                  "        num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 256}\n");
    folder_.write("a.yaml",
                  "include: model.yaml\n"
                  "run: {name: a}\n"
                  "data:\n"
                  "  tokenizer: tok.model\n"
                  "  context_length: 128\n"
                  "  sources: [{name: s, paths: s.jsonl}]\n"
                  "train: {steps: 10, global_batch_size: 4, micro_batch_size: 2}\n");
  }
  static std::string line_with(const std::string& text, const std::string& part) {
    const size_t at = text.find(part);
    if (at == std::string::npos) return "no line with " + part;
    const size_t begin = text.rfind('\n', at) + 1;
    return text.substr(begin, text.find('\n', at) - begin);
  }
};

TEST_F(ConfigApp, PrintsOriginsAndWhatTheSettingsAmountTo) {
  const Finished finished = run("config a.yaml --set train.steps=20");
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_EQ(finished.err, "");
  EXPECT_EQ(line_with(finished.out, "hidden_size"), "  hidden_size: 16  # model.yaml:1");
  EXPECT_EQ(line_with(finished.out, "context_length"), "  context_length: 128  # a.yaml:5");
  EXPECT_EQ(line_with(finished.out, " steps: "), "  steps: 20  # --set");
  EXPECT_EQ(line_with(finished.out, "clip_norm"), "  clip_norm: 1  # default");
  // Weights: embedding 96 x 16, twice q and o of 16 x 16, k and v of 16 x 8, three of 16 x 40, five norms of 16,
  // output.
  EXPECT_EQ(line_with(finished.out, "# parameters"), "# parameters             8,528");
  EXPECT_EQ(line_with(finished.out, "# tokens a step"), "# tokens a step          512");
  EXPECT_EQ(line_with(finished.out, "# tokens in all"), "# tokens in all          10,240");
  EXPECT_EQ(line_with(finished.out, "# pairs"),
            "# pairs a token, layer   64.5 visible; 64.5 dense causal (100 %), at 128 tokens");
  // 6 x 6,912 matrix weights + 12 x 16 x 2 layers x 64.5 pairs = 66,240.
  EXPECT_EQ(line_with(finished.out, "# GFLOP"),
            "# GFLOP a trained token  6.624e-05 by visible pairs; 6.624e-05 by dense causal pairs");
  EXPECT_EQ(line_with(finished.out, "# run folder"), "# run folder             runs/a");
}

TEST_F(ConfigApp, SparseAttentionShowsFewerPairs) {
  const Finished finished =
      run("config a.yaml --set attention.kind=dga --set attention.local_window=0 --set attention.focal_ratio=0 --set "
          "attention.group_size=128");
  // Without focal tokens the one group closes at the last token, which sees it and nothing else.
  EXPECT_EQ(line_with(finished.out, "# pairs"),
            "# pairs a token, layer   63.5 visible; 64.5 dense causal (98.5 %), at 128 tokens");
}

TEST_F(ConfigApp, PredictsMemoryAndTimeForADevice) {
  const std::string shape = "config a.yaml --set train.dtype=bf16 --set model.hidden_size=256 --set model.head_dim=64 ";
  const Finished h200 = run(shape + "--device H200");
  EXPECT_EQ(h200.code, 0) << h200.err;
  EXPECT_EQ(line_with(h200.out, "# predicted for"), "# predicted for          one H200");
  EXPECT_EQ(line_with(h200.out, "# predicted peak GiB").rfind("# predicted peak GiB     0.0 of 139.0: weights 0.0", 0),
            0U)
      << h200.out;
  EXPECT_NE(line_with(h200.out, "# predicted step s").find(" tokens/s, MFU "), std::string::npos) << h200.out;
  EXPECT_EQ(line_with(run(shape + "--device L40S").out, "# no prediction"),
            "# no prediction          its rates are not known; those of H100 and H200 are");
  EXPECT_EQ(line_with(run("config a.yaml").out, "# no prediction"),
            "# no prediction          train.dtype is not bf16, which the rates are for");
  const Finished large =
      run("config a.yaml --set train.dtype=bf16 --set model.hidden_size=8192 --set "
          "model.head_dim=128 --set model.num_attention_heads=64 --set model.num_key_value_heads=8 "
          "--set model.intermediate_size=28672 --set model.num_hidden_layers=80 --device H100");
  EXPECT_NE(line_with(large.out, "# predicted peak GiB").find("of 79.0; DOES NOT FIT: "), std::string::npos)
      << large.out;
}

TEST_F(ConfigApp, PredictsForSeveralGpus) {
  const std::string shape =
      "config a.yaml --set train.dtype=bf16 --set model.hidden_size=256 --set model.head_dim=64 --device H100 --set "
      "train.micro_batch_size=1 ";
  const auto number = [&](const std::string& out, const std::string& line, const std::string& name) {
    const std::string text = line_with(out, line);
    const size_t at = text.find(name + " ");
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + name.size() + 1));
  };
  const Finished one = run(shape), two = run(shape + "--gpus 2"),
                 many = run(shape + "--set train.global_batch_size=16 --gpus 16");
  EXPECT_EQ(line_with(two.out, "# predicted for"), "# predicted for          2 H100, memory of each");
  EXPECT_EQ(line_with(two.out, "# exchange"), "# exchange counted at    245 GB/s a GPU, NVLink within a host");
  EXPECT_EQ(line_with(many.out, "# exchange"),
            "# exchange counted at    245 GB/s a GPU, eight adapters of 400 Gbit/s a host");
  EXPECT_EQ(line_with(one.out, "# exchange"), "no line with # exchange");
  EXPECT_EQ(number(one.out, "# predicted step", "other GPUs"), -1);
  EXPECT_GE(number(two.out, "# predicted step", "other GPUs"), 0);
  const Finished odd = run(shape + "--gpus 3");
  EXPECT_EQ(odd.code, 3) << odd.out;
  EXPECT_NE(odd.err.find("train.global_batch_size: is 4; 3 ranks"), std::string::npos) << odd.err;
}

TEST_F(ConfigApp, ItsOutputIsTheSameConfig) {
  const Finished first = run("config a.yaml");
  folder_.write("resolved.yaml", first.out);
  const Finished second = run("config resolved.yaml");
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(line_with(first.out, "# config hash").size(), std::string("# config hash            ").size() + 32);
  EXPECT_EQ(line_with(second.out, "# config hash"), line_with(first.out, "# config hash"));
}

TEST_F(ConfigApp, ErrorsAreCodeThreeAndALineEach) {
  folder_.write("b.yaml", "include: a.yaml\ntrain:\n  stepz: 3\n  micro_batch_size: three\n");
  const Finished finished = run("config b.yaml --set data.context_length=0");
  EXPECT_EQ(finished.code, 3);
  EXPECT_EQ(finished.out, "");
  EXPECT_EQ(finished.err,
            "error: --set: data.context_length: must be at least 1 and at most 1073741824, got 0\n"
            "error: b.yaml:3: train.stepz: unknown key; did you mean steps?\n"
            "error: b.yaml:4: train.micro_batch_size: expected a whole number, got 'three'\n");
}

TEST_F(ConfigApp, MissingFiles) {
  const Finished config = run("config none.yaml");
  EXPECT_EQ(config.code, 3);
  EXPECT_EQ(config.err, "error: cannot read none.yaml: No such file or directory\n");
  folder_.write("c.yaml", "model: {path: none}\ndata: {sources: [{name: s, paths: s.u16}]}\n");
  const Finished model = run("config c.yaml");
  EXPECT_EQ(model.code, 4) << model.err;
}

TEST_F(ConfigApp, WarningsGoToStderr) {
  const Finished finished = run("config a.yaml --set data.context_length=512");
  EXPECT_EQ(finished.code, 0);
  EXPECT_EQ(finished.err.substr(0, 47), "warning: data.context_length is 512, beyond the");
}

TEST_F(ConfigApp, AssignmentsMayStandBeforeTheFile) {
  const Finished finished = run("config --set train.steps=20 --set run.seed=7 a.yaml");
  EXPECT_EQ(finished.code, 0) << finished.err;
  EXPECT_EQ(line_with(finished.out, " steps: "), "  steps: 20  # --set");
  EXPECT_EQ(line_with(finished.out, " seed: "), "  seed: 7  # --set");
}

TEST_F(ConfigApp, TheReferenceIsThatOfTheDocuments) {
  const Finished finished = run("config --reference");
  EXPECT_EQ(finished.code, 0);
  const std::string document = read_file(DGA_SOURCE_DIR "/docs/config.md");
  EXPECT_TRUE(document.ends_with(finished.out));
  EXPECT_GT(finished.out.size(), 5000u);
}

}  // namespace
}  // namespace dga
