#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <thread>

#include "apps/apps.h"
#include "kernels/common/device.h"
#include "run/build_info.h"

namespace dga {
namespace {

/// The processor's name as the kernel tells it.
std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.find(": ") + 2, line.size()));
  }
  return "unknown processor";
}

std::string device_lines() {
  std::string text = str("  cpu: ", cpu_name(), ", ", std::thread::hardware_concurrency(), " threads, LibTorch uses ",
                         at::get_num_threads(), "\n");
  const kernels::DeviceList list = kernels::list_devices();
  if (list.devices.empty()) return text + str("  cuda: none (", list.why_none, ")\n");
  for (const kernels::Device& device : list.devices) {
    text += str("  cuda:", device.index, ": ", device.name, ", compute capability ", device.major, ".", device.minor,
                ", ", device.memory_bytes >> 20, " MiB, ", device.free_bytes >> 20, " MiB free",
                device.has_code ? "" : "; this binary holds no kernels for it", "\n");
  }
  return text;
}

ExitCode run_info() {
  const BuildInfo& build = build_info();
  std::string text = str("dga ", build.version, "\ncommit: ", build.commit, "\nbuild: ", build.build_type, ", ",
                         build.compiler, "\ncuda: ");
  text += build.cuda ? str("yes, architectures ", kernels::compiled_architectures()) : "no (a CPU program)";
  text += "\nlibraries:\n";
  for (const auto& [name, version] : build.libraries) text += str("  ", name, " ", version, "\n");
  text += "devices:\n" + device_lines();
  std::fputs(text.c_str(), stdout);
  return ExitCode::ok;
}

}  // namespace

void add_info_app(CLI::App& root, AppContext& context) {
  CLI::App* app = root.add_subcommand("info", "Print version, commit, build, libraries and devices.");
  app->callback([&context] { context.action = run_info; });
}

}  // namespace dga
