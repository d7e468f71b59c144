#include <sentencepiece_processor.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>

#include "data/line_reader.h"
#include "data/loader.h"
#include "data/source_files.h"
#include "text_files.h"
#include "util/timer.h"

/// Text files to packed batches, against sentencepiece called directly on the same documents in memory. Both with one
/// encoding thread. CPU seconds are those of all threads, so a ratio of them is a ratio per core.
/// usage: bench_loader [model [text files or globs ...]]
namespace dga::test {
namespace {

struct Cost {
  double wall_s = 0;
  double cpu_s = 0;
};

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// The cheapest of a few runs: on a shared machine the others are disturbed.
Cost measure(int runs, const std::function<void()>& work) {
  Cost best{1e30, 1e30};
  for (int run = 0; run < runs; ++run) {
    const double cpu = cpu_seconds();
    const Timer timer;
    work();
    best.wall_s = std::min(best.wall_s, timer.seconds());
    best.cpu_s = std::min(best.cpu_s, cpu_seconds() - cpu);
  }
  return best;
}

std::vector<std::string> read_texts(const SourceConfig& source) {
  std::vector<std::string> texts;
  for (const SourceFile& file : list_files(source)) {
    LineReader reader(file.path, int64_t{1} << 30, LineReader::Unit::line);
    for (std::string line; reader.append_next(line) == LineReader::Result::line; line.clear()) {
      texts.push_back(nlohmann::json::parse(line)["text"]);
    }
  }
  return texts;
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(": ") + 2);
  }
  return "unknown CPU";
}

void print_row(const char* what, const Cost& cost, double tokens, double bytes, const Cost& direct) {
  std::printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", what, tokens / cost.wall_s / 1e6,
              tokens / cost.cpu_s / 1e6, bytes / cost.cpu_s / 1e6, direct.wall_s / cost.wall_s,
              direct.cpu_s / cost.cpu_s);
}

void run(const fs::path& model, const std::vector<std::string>& paths) {
  SourceConfig text = source("text", "");
  text.paths = paths;
  const std::vector<std::string> texts = read_texts(text);
  double bytes = 0;
  for (const std::string& document : texts) bytes += static_cast<double>(document.size());

  sentencepiece::SentencePieceProcessor processor;
  if (!processor.Load(model.string()).ok()) fail(ExitCode::input, "no model: ", model.string());
  double tokens = 0;
  const Cost direct = measure(3, [&] {
    tokens = 0;
    std::vector<int> ids;
    for (const std::string& document : texts) {
      if (!processor.Encode(document, &ids).ok()) fail(ExitCode::failure, "sentencepiece failed");
      tokens += static_cast<double>(ids.size());
    }
  });

  std::string folder = (fs::temp_directory_path() / "dga-bench-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) fail(ExitCode::failure, "no temporary folder");
  DataConfig data;
  data.sources = {text};
  data.cache = folder + "/cache";
  data.tokenizer_threads = 1;
  data.context_length = 8192;
  const auto tokenizer = std::make_shared<const Tokenizer>(model);
  LoaderOptions options;
  options.global_batch_size = options.rows = 2;
  options.vocab_size = tokenizer->vocab_size();
  const auto steps = static_cast<int64_t>(tokens / static_cast<double>(options.rows * data.context_length)) + 1;
  const auto epoch = [&] {
    Loader loader(data, tokenizer, options);
    for (int64_t step = 0; step < steps; ++step) loader.next();
  };
  const Cost from_text = measure(3, [&] {
    fs::remove_all(data.cache);
    epoch();
  });
  const Cost from_shards = measure(3, epoch);
  fs::remove_all(folder);

  std::printf("%s; %zu documents, %.1f MB, %.2f M tokens, model %s\n\n", cpu_name().c_str(), texts.size(), bytes / 1e6,
              tokens / 1e6, model.filename().c_str());
  std::printf("| path | M tokens/s | M tokens/CPU s | MB/CPU s | speed, direct = 1 | per core, direct = 1 |\n");
  std::printf("| --- | --- | --- | --- | --- | --- |\n");
  print_row("sentencepiece called directly", direct, tokens, bytes, direct);
  print_row("text files to packed batches", from_text, tokens, bytes, direct);
  print_row("token shards to packed batches", from_shards, tokens, bytes, direct);
  if (direct.cpu_s / from_text.cpu_s < 0.9) fail(ExitCode::failure, "slower per core than 0.9 x sentencepiece");
}

}  // namespace
}  // namespace dga::test

int main(int argc, char** argv) {
  try {
    const dga::test::fs::path sample = dga::test::sample_folder();
    const dga::test::fs::path model = argc > 1 ? argv[1] : dga::test::model_path();
    std::vector<std::string> paths(argv + std::min(argc, 2), argv + argc);
    if (paths.empty()) {
      paths = {(sample / "slimpajama/train/*/*.zst").string(), (sample / "proof-pile/train/*.gz").string()};
    }
    dga::test::run(model, paths);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
