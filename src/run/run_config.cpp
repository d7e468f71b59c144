#include "run/run_config.h"

#include <algorithm>

#include "model/hf_config.h"
#include "util/hash.h"

namespace dga {
namespace {

bool names_token_bin(const std::string& path) { return path.ends_with(".u16") || path.ends_with(".u32"); }

bool holds_text(const SourceConfig& source) {
  if (source.format == SourceFormat::automatic) {
    return !std::all_of(source.paths.begin(), source.paths.end(), names_token_bin);
  }
  return source.format != SourceFormat::u16 && source.format != SourceFormat::u32;
}

/// A run config with the rules that hold for training alone.
struct TrainingRun {
  RunConfig& config;
  void fields(config::Fields& f) { config.fields(f); }
  void check(config::Checker& c) const;
};

void TrainingRun::check(config::Checker& c) const {
  config.check(c);
  c.require(!config.data.sources.empty(), "data.sources", "training needs at least one source of text");
  const bool needs_tokenizer = std::any_of(config.data.sources.begin(), config.data.sources.end(), holds_text);
  c.require(!needs_tokenizer || !config.model.path.empty() || !config.data.tokenizer.empty(), "data.tokenizer",
            "a model that starts from a shape brings no tokenizer; name a sentencepiece model");
}

/// Layers named in attention.layers that the model does not have.
void check_layers(const AttentionConfig& attention, int64_t num_layers, config::Checker& c) {
  for (size_t i = 0; i < attention.layers.size(); ++i) {
    const auto layers = parse_layers(attention.layers[i].layers);
    if (!layers || layers->empty()) continue;
    const int64_t highest = *std::max_element(layers->begin(), layers->end());
    c.require(highest < num_layers, str("attention.layers[", i, "].layers"),
              str("names layer ", highest, ", but the model has layers 0 to ", num_layers - 1));
  }
}

void check_pose(const RunConfig& run, config::Checker& c) {
  const PoseConfig& pose = run.train.pose;
  if (pose.target_length == 0) return;
  c.require(pose.target_length > run.data.context_length, "train.pose.target_length",
            str("must be above data.context_length, ", run.data.context_length, "; got ", pose.target_length));
  c.require(pose.chunks <= run.data.context_length, "train.pose.chunks",
            str("must be at most data.context_length, ", run.data.context_length, "; got ", pose.chunks));
  c.require(!run.data.document_masking, "train.pose.target_length",
            "skips within a row, but data.document_masking counts positions from each document's start; turn one off");
  bool moves = moves_positions(run.attention, run.attention.kind);
  for (const LayerKind& layer : run.attention.layers) moves = moves || moves_positions(run.attention, layer.kind);
  c.require(
      !moves, "train.pose.target_length",
      "the attention counts positions without gaps itself (lm_infinite, or streaming with sink_positions: cache)");
}

/// Positions that the model reaches with its scaling of RoPE.
int64_t reached_positions(const ModelConfig& model, const LlamaConfig& shape) {
  const bool own_scaling = model.rope_scaling.factor.has_value();
  // resolve_model() has multiplied a length that the section does not give itself.
  if (!own_scaling || !model.max_position_embeddings.has_value()) return shape.max_position_embeddings;
  return static_cast<int64_t>(*model.rope_scaling.factor * static_cast<double>(shape.max_position_embeddings));
}

std::vector<std::string> find_warnings(const RunConfig& config, const LlamaConfig& shape) {
  const bool from_folder = !config.model.path.empty();
  const bool own_theta =
      from_folder && config.model.rope_theta.has_value();  // without a folder it is part of the shape
  const bool folder_scales =
      config.model.rope_scaling.type == RopeOverride::from_model && shape.rope_scaling.type != RopeType::none;
  const int64_t reached = reached_positions(config.model, shape);
  std::vector<std::string> warnings;
  const auto warn_length = [&](const char* field, int64_t length) {
    if (length <= reached || own_theta || folder_scales) return;
    warnings.push_back(
        str(field, " is ", length, ", beyond the ", reached,
            " positions that the model reaches; stretch RoPE by model.rope_scaling or model.rope_theta"));
  };
  warn_length("data.context_length", config.data.context_length);
  warn_length("train.pose.target_length", config.train.pose.target_length);
  for (const int64_t length : config.eval.context_lengths) warn_length("eval.context_lengths", length);
  return warnings;
}

/// Rules that need the shape of the model, which model.path may hold. They are checked as part of the document again,
/// so that a broken one is reported with its line.
struct ShapedRun {
  RunConfig& config;
  const LlamaConfig& model;
  void fields(config::Fields& f) { config.fields(f); }
  void check(config::Checker& c) const { check_layers(config.attention, model.num_hidden_layers, c); }
};

}  // namespace

void RunSection::fields(config::Fields& f) {
  f.field("name", name, "what the run is called");
  f.field("folder", folder, "where its files go, relative to the working directory; empty: runs/NAME");
  f.field("seed", seed, "seed of weights, data order and random selection", config::at_least(0));
  f.field("device", device, "auto takes the first GPU where there is one, else the CPU");
}

void RunSection::check(config::Checker& c) const {
  const bool plain = !name.empty() && name.find_first_of("/\\\n") == std::string::npos && name[0] != '.';
  c.require(plain, "name", str("must be a plain file name, got \"", name, "\""));
}

std::filesystem::path RunSection::path() const {
  return folder.empty() ? std::filesystem::path("runs") / name : std::filesystem::path(folder);
}

void RunConfig::fields(config::Fields& f) {
  f.section("run", run, "The run's name and place.");
  f.section("model", model,
            "The model: a Hugging Face folder to start from, or a shape whose weights are drawn at random.");
  f.section("attention", attention, "The kind of attention.");
  f.section("data", data, "Text, tokenizer and packing.");
  f.section("optimizer", optimizer, "AdamW.");
  f.section("schedule", schedule, "The learning rate as a function of the step.");
  f.section("train", train, "Steps, batches and precision.");
  f.section("eval", eval, "Perplexity on held-out text, within training and by `dga eval`.");
  f.section("checkpoint", checkpoint, "When to save and what to keep. The last step and a stop signal always save.");
  f.section("parallel", parallel, "Use of the machine, and of several.");
  f.section("log", log, "What is shown.");
}

void RunConfig::check(config::Checker& c) const {
  check_pose(*this, c);
  c.require(
      train.global_batch_size % train.micro_batch_size == 0, "train.global_batch_size",
      str("must be a multiple of train.micro_batch_size, ", train.micro_batch_size, "; got ", train.global_batch_size));
  c.require(schedule.warmup_steps <= train.steps, "schedule.warmup_steps",
            str("must be at most train.steps, ", train.steps, "; got ", schedule.warmup_steps));
  const int64_t after_warmup = std::max<int64_t>(0, train.steps - schedule.warmup_steps);
  c.require(schedule.decay_steps <= after_warmup, "schedule.decay_steps",
            str("must be at most the steps after warm-up, ", after_warmup, "; got ", schedule.decay_steps));
  c.require(eval.every_steps == 0 || !eval.sources.empty(), "eval.every_steps",
            "evaluation inside training needs eval.sources; name held-out text, or set it to 0");
  const bool bad_tokenizer = !data.tokenizer.empty() && std::filesystem::path(data.tokenizer).extension() == ".json";
  c.require(!bad_tokenizer, "data.tokenizer",
            "must be a sentencepiece model (tokenizer.model); a tokenizer.json is none");
}

LoadedRun load_run(const std::filesystem::path& path, const std::vector<std::string>& assignments, RunUse use) {
  return load_run(config::Document(path, assignments), use);
}

LoadedRun load_run(config::Document document, RunUse use) {
  const std::string folder = document.text_at("model.path");
  if (!folder.empty()) {
    if (const std::optional<std::string> recorded = read_recorded_attention(folder)) {
      document.set_defaults("attention", *recorded, (std::filesystem::path(folder) / "config.json").string());
    }
  }
  LoadedRun run;
  if (use == RunUse::training) {
    TrainingRun training{run.config};
    document.read_into(training);
  } else {
    document.read_into(run.config);
  }
  run.model = resolve_model(run.config.model);
  ShapedRun shaped{run.config, run.model};
  document.read_into(shaped);
  run.warnings = find_warnings(run.config, run.model);
  run.resolved_yaml = document.print(run.config);
  run.hash = hash_hex(config::to_yaml([copy = run.config](config::Fields& f) mutable { copy.fields(f); }));
  return run;
}

}  // namespace dga
