#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "util/error.h"

/// Log lines go to stderr and, once add_file() was called, to the run's train.log.
namespace dga::log {

enum class Level { debug, info, warning, error };

void set_level(Level level);
/// Of the processes of a run this is number `rank`: all but 0 show warnings and errors alone, after line_prefix().
void set_rank(int64_t rank);
/// "rank N: " in processes of a run other than the first; else empty.
const std::string& line_prefix();
/// Appends all further lines to `path` as well, with time stamps.
void add_file(const std::filesystem::path& path);
void write(Level level, const std::string& message);
/// Shows `text` as the last line of the terminal, replaced by the next call; nothing where stderr is no terminal or
/// another process of the run shows it.
void show_status(const std::string& text);

template <class... T>
void debug(const T&... parts) {
  write(Level::debug, ::dga::str(parts...));
}
template <class... T>
void info(const T&... parts) {
  write(Level::info, ::dga::str(parts...));
}
template <class... T>
void warning(const T&... parts) {
  write(Level::warning, ::dga::str(parts...));
}
template <class... T>
void error(const T&... parts) {
  write(Level::error, ::dga::str(parts...));
}

}  // namespace dga::log
