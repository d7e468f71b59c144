#include "config/load.h"
#include "run/run_fixture.h"

namespace dga {
namespace {

using LoadRun = RunTest;

TEST_F(LoadRun, AShapeAndASourceAreEnough) {
  const LoadedRun run = load(training_yaml());
  EXPECT_EQ(run.model.hidden_size, 16);
  EXPECT_EQ(run.model.head_dim, 4);
  EXPECT_EQ(run.config.data.sources.at(0).name, "s");
  EXPECT_EQ(run.config.run.path(), "runs/run");
  EXPECT_TRUE(run.warnings.empty());
}

TEST_F(LoadRun, TrainingNeedsSourcesAndATokenizer) {
  EXPECT_EQ(error("model: {vocab_size: 96, hidden_size: 16, intermediate_size: 40, num_hidden_layers: 2, "
                  "num_attention_heads: 4}\n"),
            "a.yaml: data.sources: training needs at least one source of text");
  EXPECT_EQ(error(training_yaml(), {"data.tokenizer=\"\""}),
            "--set: data.tokenizer: a model that starts from a shape brings no tokenizer; name a sentencepiece model");
  EXPECT_EQ(error(training_yaml(), {"data.tokenizer=\"\"", "data.sources.0.format=u16"}), "no error");
  EXPECT_EQ(error(training_yaml(), {"data.tokenizer=\"\"", "data.sources.0.paths=[a.u16, b.u32]"}), "no error");
  EXPECT_EQ(error(training_yaml(), {"data.tokenizer=x/tokenizer.json"}),
            "--set: data.tokenizer: must be a sentencepiece model (tokenizer.model); a tokenizer.json is none");
}

TEST_F(LoadRun, OtherUsesNeedNeither) {
  const std::string yaml =
      "model: {vocab_size: 96, hidden_size: 16, intermediate_size: 40, num_hidden_layers: 2, "
      "num_attention_heads: 4}\n";
  EXPECT_NO_THROW(load_run(folder_.write("b.yaml", yaml), {}));
}

TEST_F(LoadRun, TheGlobalBatchIsAMultipleOfTheMicroBatch) {
  EXPECT_EQ(error(training_yaml("train:\n  micro_batch_size: 3\n  global_batch_size: 8\n")),
            "a.yaml:9: train.global_batch_size: must be a multiple of train.micro_batch_size, 3; got 8");
  EXPECT_EQ(error(training_yaml("train: {micro_batch_size: 4, global_batch_size: 8}\n")), "no error");
}

TEST_F(LoadRun, TheScheduleFitsIntoTheSteps) {
  EXPECT_EQ(error(training_yaml("train: {steps: 10}\nschedule:\n  warmup_steps: 11\n")),
            "a.yaml:9: schedule.warmup_steps: must be at most train.steps, 10; got 11");
  EXPECT_EQ(error(training_yaml("train: {steps: 10}\nschedule: {warmup_steps: 4, decay_steps: 7}\n")),
            "a.yaml:8: schedule.decay_steps: must be at most the steps after warm-up, 6; got 7");
  EXPECT_EQ(error(training_yaml("train: {steps: 10}\nschedule: {warmup_steps: 4, decay_steps: 6}\n")), "no error");
}

TEST_F(LoadRun, EvaluationInsideTrainingNeedsText) {
  EXPECT_EQ(error(training_yaml("eval:\n  every_steps: 10\n")),
            "a.yaml:8: eval.every_steps: evaluation inside training needs eval.sources; name held-out text, or set it "
            "to 0");
  EXPECT_EQ(error(training_yaml("eval: {every_steps: 10, sources: [{name: h, paths: h.txt}]}\n")), "no error");
}

TEST_F(LoadRun, LayersThatTheModelLacks) {
  EXPECT_EQ(error(training_yaml("attention:\n  kind: dga\n  layers:\n    - layers: 0\n      kind: full\n"
                                "    - layers: 1-2\n      kind: full\n")),
            "a.yaml:12: attention.layers[1].layers: names layer 2, but the model has layers 0 to 1");
}

TEST_F(LoadRun, RunNamesAreFileNames) {
  EXPECT_EQ(error(training_yaml("run: {name: a/b}\n")), "a.yaml:7: run.name: must be a plain file name, got \"a/b\"");
  EXPECT_EQ(error(training_yaml("run: {name: ..}\n")), "a.yaml:7: run.name: must be a plain file name, got \"..\"");
  EXPECT_EQ(error(training_yaml("run: {name: \"\"}\n")), "a.yaml:7: run.name: must be a plain file name, got \"\"");
  EXPECT_EQ(load(training_yaml("run: {name: b}\n")).config.run.path(), "runs/b");
  EXPECT_EQ(load(training_yaml("run: {name: b, folder: x/y}\n")).config.run.path(), "x/y");
}

TEST_F(LoadRun, ErrorsOfAllSectionsAtOnce) {
  EXPECT_EQ(error(training_yaml("attention: {kind: dgaa, focal_ratio: 1.5}\n"
                                "optimizer: {learning_rate: -1}\n"
                                "train: {global_batch_size: 8, micro_batch_size: 3}\n"
                                "chekpoint: {keep_last: 1}\n")),
            "a.yaml:7: attention.kind: must be full, dga, streaming, lm_infinite or longformer, got 'dgaa'; did you "
            "mean dga?\n"
            "a.yaml:7: attention.focal_ratio: must be at least 0 and at most 1, got 1.5\n"
            "a.yaml:8: optimizer.learning_rate: must be at least 0, got -1\n"
            "a.yaml:9: train.global_batch_size: must be a multiple of train.micro_batch_size, 3; got 8\n"
            "a.yaml:10: chekpoint: unknown key; did you mean checkpoint?");
}

constexpr const char* kHfConfig = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96,
  "hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
  "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
  "hidden_act": "silu", "torch_dtype": "float32", "tie_word_embeddings": false%s})";

std::string hf_config(const std::string& more = "") {
  std::string text = kHfConfig;
  return text.replace(text.find("%s"), 2, more);
}

std::string yaml_with_model(const std::string& model) {
  return "model:\n" + model + "data:\n  context_length: 64\n  sources: [{name: s, paths: s.u16}]\n";
}

TEST_F(LoadRun, TheShapeComesFromAModelFolder) {
  folder_.write("hf/config.json", hf_config());
  const std::string path = (folder_.path() / "hf").string();
  const LoadedRun run = load(yaml_with_model("  path: " + path + "\n"));
  EXPECT_EQ(run.model.num_key_value_heads, 2);
  EXPECT_EQ(run.model.vocab_size, 96);
  EXPECT_EQ(run.config.model.hidden_size, std::nullopt);
  EXPECT_EQ(error(yaml_with_model("  path: " + path + "\n  hidden_size: 16\n")),
            "a.yaml:3: model.hidden_size: comes from model.path's config.json; leave it out");
}

TEST_F(LoadRun, AMissingModelFolderIsAnInputError) {
  const std::string message = error(yaml_with_model("  path: none/at/all\n"), {}, ExitCode::input);
  EXPECT_NE(message.find("none/at/all"), std::string::npos) << message;
}

TEST_F(LoadRun, RecordedAttentionLiesBelowTheRunsOwn) {
  folder_.write("hf/config.json",
                hf_config(R"(, "dga_attention": {"kind": "dga", "group_size": 8, "local_window": 32})"));
  const std::string path = (folder_.path() / "hf").string();
  const LoadedRun run = load(yaml_with_model("  path: " + path + "\n") + "attention: {group_size: 4}\n");
  EXPECT_EQ(run.config.attention.kind, AttentionKind::dga);
  EXPECT_EQ(run.config.attention.group_size, 4);
  EXPECT_EQ(run.config.attention.local_window, 32);
  const std::string resolved = folder_.relative(run.resolved_yaml);
  EXPECT_NE(resolved.find("  kind: dga  # hf/config.json\n"), std::string::npos) << resolved;
  EXPECT_NE(resolved.find("  group_size: 4  # a.yaml:6\n"), std::string::npos) << resolved;
}

TEST_F(LoadRun, LengthsBeyondTheModelsPositionsAreWarnedOf) {
  using List = std::vector<std::string>;
  const auto warnings = [&](const std::string& more, const List& assignments) {
    return load(training_yaml(more), assignments).warnings;
  };
  const auto beyond = [](const std::string& field, int positions) {
    return List{str(field, ", beyond the ", positions,
                    " positions that the model reaches; stretch RoPE by model.rope_scaling or model.rope_theta")};
  };
  EXPECT_EQ(warnings("", {"data.context_length=257"}), beyond("data.context_length is 257", 256));
  EXPECT_EQ(warnings("", {"data.context_length=256"}), List{});
  EXPECT_EQ(warnings("eval: {context_lengths: [256, 1024]}\n", {}), beyond("eval.context_lengths is 1024", 256));
  EXPECT_EQ(warnings("", {"data.context_length=257", "model.rope_theta=50000"}),
            beyond("data.context_length is 257", 256));
  const std::string twice = "model.rope_scaling={type: linear, factor: 2}";
  EXPECT_EQ(warnings("", {"data.context_length=512", twice}), List{});
  EXPECT_EQ(warnings("", {"data.context_length=513", twice}), beyond("data.context_length is 513", 512));
}

TEST_F(LoadRun, AnotherThetaAboveAModelFolderStretchesRope) {
  folder_.write("hf/config.json", hf_config());
  const std::string model = "  path: " + (folder_.path() / "hf").string() + "\n";
  EXPECT_EQ(load(yaml_with_model(model), {"data.context_length=65"}).warnings.size(), 1u);
  EXPECT_EQ(load(yaml_with_model(model), {"data.context_length=65", "model.rope_theta=50000"}).warnings.size(), 0u);
}

TEST_F(LoadRun, TheResolvedConfigReadsBackToTheSameRun) {
  const LoadedRun run =
      load(training_yaml("attention: {kind: dga, selection: causal, layers: [{layers: '0', kind: full}]}\n"
                         "eval: {stride: 16, context_lengths: [32, 64], sources: [{name: e, paths: [a, 'b*']}]}\n"
                         "optimizer: {learning_rate: 3.3e-5, clip_norm: 0.7}\n"
                         "train: {trainable: ['*.q_proj.*', lm_head]}\n"),
           {"run.seed=18446744", "data.skip=[{from_step: 3, to_step: 5}]"});
  const LoadedRun again = load(run.resolved_yaml);
  EXPECT_EQ(again.hash, run.hash);
  EXPECT_EQ(again.model, run.model);
  EXPECT_EQ(again.config.data.skip.at(0).to_step, 5);
  EXPECT_EQ(again.config.train.trainable, (std::vector<std::string>{"*.q_proj.*", "lm_head"}));
}

TEST_F(LoadRun, TheHashIsOfTheValuesAlone) {
  const LoadedRun first = load(training_yaml());
  const LoadedRun moved = load("# a comment\n\n" + training_yaml("optimizer:\n"), {"train.steps=1000"});
  EXPECT_EQ(first.hash, moved.hash);
  EXPECT_NE(first.resolved_yaml, moved.resolved_yaml);
  EXPECT_NE(first.hash, load(training_yaml(), {"train.steps=1001"}).hash);
  EXPECT_NE(first.hash, load(training_yaml(), {"run.seed=1"}).hash);
}

TEST_F(LoadRun, SkippedPositionsMustReachFurtherAndBeCountedByTheModelAlone) {
  const std::string pose = "train: {pose: {target_length: 256}}\n";
  EXPECT_EQ(load(training_yaml(pose)).config.train.pose.target_length, 256);
  EXPECT_EQ(error(training_yaml("train: {pose: {target_length: 128}}\n")),
            "a.yaml:7: train.pose.target_length: must be above data.context_length, 128; got 128");
  EXPECT_NE(error(training_yaml(pose), {"data.document_masking=true"}).find("counts positions from each document's"),
            std::string::npos);
  EXPECT_NE(error(training_yaml(pose), {"attention.kind=lm_infinite"}).find("counts positions without gaps itself"),
            std::string::npos);
  EXPECT_EQ(load(training_yaml(pose), {"attention.kind=streaming"}).warnings, std::vector<std::string>{});
  EXPECT_EQ(load(training_yaml(pose), {"train.pose.target_length=512"}).warnings.size(), 1U);
}

}  // namespace
}  // namespace dga
