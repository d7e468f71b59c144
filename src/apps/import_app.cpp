#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>

#include "apps/apps.h"
#include "data/tokenizer.h"
#include "model/attention_record.h"
#include "model/hf_config.h"
#include "model/weights_io.h"
#include "tensor/dtype.h"
#include "util/log.h"

namespace dga {
namespace {

struct ImportOptions {
  std::string source;
  std::string output;
  std::string dtype;
  uint64_t max_shard_bytes = 5'000'000'000;
};

std::string rope_text(const LlamaConfig& config) {
  const RopeScaling& rope = config.rope_scaling;
  std::string text = str("theta ", config.rope_theta);
  if (rope.type == RopeType::none) return text;
  const char* names[] = {"none", "linear", "ntk", "yarn", "llama3"};
  text += str(", ", names[static_cast<int>(rope.type)], " scaling by ", rope.factor);
  if (rope.original_max_position_embeddings > 0)
    text += str(" from ", rope.original_max_position_embeddings, " tokens");
  return text;
}

/// What the folder's tokenizer is good for; throws where its tokens do not fit the model.
std::string tokenizer_text(const std::filesystem::path& folder, int64_t vocab_size) {
  const std::filesystem::path model = folder / "tokenizer.model";
  if (!std::filesystem::exists(model)) {
    return std::filesystem::exists(folder / "tokenizer.json")
               ? "tokenizer.json alone, which dga does not read: use token bins"
               : "none: use token bins, or data.tokenizer";
  }
  const Tokenizer tokenizer(model);
  DGA_CHECK_INPUT(tokenizer.vocab_size() <= vocab_size, model.string(), ": has ", tokenizer.vocab_size(),
                  " pieces, more than the model's vocab_size of ", vocab_size);
  return str("sentencepiece, ", tokenizer.vocab_size(), " pieces");
}

void print_report(const LlamaConfig& config, const std::string& tokenizer, const std::string& dtype, bool attention) {
  std::cout << "parameters  " << config.parameter_count() << ", stored as " << dtype << "\n"
            << "layers      " << config.num_hidden_layers << " of width " << config.hidden_size << ", SwiGLU "
            << config.intermediate_size << "\n"
            << "heads       " << config.num_attention_heads << " of " << config.head_dim << ", "
            << config.num_key_value_heads << " for keys and values\n"
            << "vocabulary  " << config.vocab_size << (config.tie_word_embeddings ? ", tied" : "") << "\n"
            << "length      " << config.max_position_embeddings << "\n"
            << "RoPE        " << rope_text(config) << "\n"
            << "tokenizer   " << tokenizer << "\n"
            << "attention   " << (attention ? "recorded under dga_attention" : "full") << "\n";
}

ExitCode run_import(const ImportOptions& options) {
  const std::filesystem::path source = options.source;
  const LlamaConfig config = read_hf_config(source);
  const std::optional<AttentionConfig> attention = recorded_attention(source);
  const std::string tokenizer = tokenizer_text(source, config.vocab_size);
  const at::ScalarType stored = stored_dtype(source);
  const at::ScalarType dtype = options.dtype.empty() ? stored : dtype_of_name(options.dtype);
  const Llama model = Llama::load(source, config, attention.value_or(AttentionConfig{}), /*seed=*/0, dtype, at::kCPU);
  print_report(config, tokenizer, hf_dtype_name(stored), attention.has_value());
  if (options.output.empty()) return ExitCode::ok;
  HfExport description;
  description.config = config;
  description.attention = attention;
  description.dtype = dtype;
  description.max_shard_bytes = static_cast<int64_t>(options.max_shard_bytes);
  description.tokenizer_source = source;
  save_hf(options.output, model.parameters(), description);
  log::info("wrote ", options.output, " in ", hf_dtype_name(dtype));
  return ExitCode::ok;
}

}  // namespace

void add_import_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("import", "Check a Hugging Face folder, report it, and write it anew.");
  auto options = std::make_shared<ImportOptions>();
  app->add_option("source", options->source, "Hugging Face folder (config.json, *.safetensors)")
      ->type_name("DIR")
      ->required();
  app->add_option("--output", options->output,
                  "folder to write; must not exist, or be empty; without it the folder is only checked");
  app->add_option("--dtype", options->dtype, "type of the written weights; default: as the folder stores them")
      ->check(CLI::IsMember({"fp32", "fp16", "bf16"}));
  app->add_option("--max-shard-size", options->max_shard_bytes,
                  "weights are split into files of at most this size, as 5GB")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->footer(
      "A run can start from a Hugging Face folder directly (model.path); import is for checks and conversions.");
  app->callback([options, &context] { context.action = [options] { return run_import(*options); }; });
}

}  // namespace dga
