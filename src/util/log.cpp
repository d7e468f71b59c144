#include "util/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>
#include <mutex>

namespace dga::log {
namespace {

spdlog::level::level_enum to_spdlog(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::shared_ptr<spdlog::logger> logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto sink = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    sink->set_pattern("%^%L%$ %v");
    auto created = std::make_shared<spdlog::logger>("dga", sink);
    created->flush_on(spdlog::level::info);
    return created;
  }();
  return instance;
}

std::string prefix;  // set before other threads log
std::mutex status_mutex;
bool status_shown = false;

void clear_status() {
  if (!status_shown) return;
  std::cerr << "\r\033[K" << std::flush;
  status_shown = false;
}

}  // namespace

void set_level(Level level) {
  const Level least = prefix.empty() ? Level::debug : Level::warning;
  logger()->set_level(to_spdlog(std::max(level, least)));
}

void set_rank(int64_t rank) {
  prefix = rank == 0 ? "" : str("rank ", rank, ": ");
  set_level(Level::info);
}

const std::string& line_prefix() { return prefix; }

void add_file(const std::filesystem::path& path) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path.string(), /*truncate=*/false);
    sink->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %l %v");
    logger()->sinks().push_back(sink);
  } catch (const spdlog::spdlog_ex& e) {
    fail(ExitCode::failure, "cannot write ", path.string(), ": ", e.what());
  }
}

void write(Level level, const std::string& message) {
  const std::lock_guard lock(status_mutex);
  clear_status();
  logger()->log(to_spdlog(level), "{}{}", prefix, message);
}

void show_status(const std::string& text) {
  static const bool terminal = isatty(STDERR_FILENO) == 1;
  if (!terminal || !prefix.empty()) return;
  const std::lock_guard lock(status_mutex);
  std::cerr << "\r\033[K" << text << std::flush;
  status_shown = !text.empty();
}

}  // namespace dga::log
