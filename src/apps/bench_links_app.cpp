#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "apps/apps.h"
#include "apps/ranks.h"
#include "bench/link_bench.h"
#include "run/build_info.h"
#include "tensor/device.h"
#include "train/device_peak.h"
#include "util/file.h"

namespace dga {
namespace {

struct BenchLinksOptions {
  LinkBenchOptions bench;
  std::string device = "auto";
  std::string json;
  int64_t gpus = 0;
};

ExitCode run_bench_links(const BenchLinksOptions& options, Communicator& ranks) {
  const int64_t count = ranks.world_size();
  if (count == 1) fail(ExitCode::usage, "bench links needs several ranks: --gpus N, or a launcher, as torchrun");
  const c10::Device device = select_device(options.device, ranks.local_rank());
  const std::vector<LinkBenchRow> rows = bench_links(options.bench, device, ranks);
  if (!ranks.is_first()) return ExitCode::ok;
  const std::string name = device_name(device);
  std::fputs(link_bench_text(rows, name, count).c_str(), stdout);
  if (!options.json.empty()) {
    write_file_atomic(options.json, link_bench_json(rows, name, count, build_info().commit));
  }
  return ExitCode::ok;
}

}  // namespace

void add_bench_links(CLI::App& bench, AppContext& context) {
  CLI::App* app =
      bench.add_subcommand("links", "Time the exchange of a bucket of gradients or weights among the ranks.");
  auto options = std::make_shared<BenchLinksOptions>();
  app->add_option("--bucket-mib", options->bench.bucket_mib, "fp32 numbers of a bucket, in MiB; bf16 ones are as many")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--repeats", options->bench.repeats, "timed calls of each operation, one behind the other")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--device", options->device, "auto, cpu, cuda")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app->add_option("--json", options->json, "write the rows to this file")->type_name("FILE");
  add_gpus_option(*app, options->gpus);
  app->callback([options, &context] {
    context.action = [options, &context] {
      RankedAction action;
      action.device = [&] { return options->device == "cpu" ? DeviceChoice::cpu : DeviceChoice::automatic; };
      action.work = [&](Communicator& ranks) { return run_bench_links(*options, ranks); };
      return run_on_ranks(context, options->gpus, action);
    };
  });
}

}  // namespace dga
