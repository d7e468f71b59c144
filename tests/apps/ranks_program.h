#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "apps/program.h"
#include "util/error.h"
#include "util/process.h"
#include "util/timer.h"

namespace dga {

/// The program as several processes of one launch, on a tiny run.
class RanksProgram : public ProgramTest {
 protected:
  static constexpr double kLimitSeconds = 120;
  using Words = std::vector<std::string>;

  RanksProgram() {
    std::string tokens;
    for (int i = 0; i < 6000; ++i) {
      tokens += static_cast<char>(i % 97 == 0 ? 0 : 1 + (i * i) % 63);
      tokens += '\0';
    }
    const std::filesystem::path file = folder_.write("tokens.u16", tokens);
    folder_.write("run.yaml",
                  "run: {device: cpu, folder: " + run_folder().string() +
                      "}\n"
                      "model: {vocab_size: 64, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2,\n"
                      "        num_attention_heads: 4, num_key_value_heads: 2}\n"
                      "data: {context_length: 32, shuffle_tokens: 1000, bos: false, eos: false,\n"
                      "       sources: [{name: tiny, format: u16, separator: 0, paths: " +
                      file.string() +
                      "}]}\n"
                      "train: {steps: 8, global_batch_size: 8, micro_batch_size: 2}\n"
                      "schedule: {kind: constant, warmup_steps: 2}\n"
                      "checkpoint: {every_steps: 4}\n"
                      "parallel: {threads: 1}\n");
  }

  std::filesystem::path run_folder() const { return folder_.path() / "run"; }
  std::filesystem::path output(int64_t rank) const { return folder_.path() / str("rank-", rank, ".txt"); }
  std::string text(int64_t rank) const { return std::filesystem::exists(output(rank)) ? read_file(output(rank)) : ""; }

  /// Starts `dga train` as `count` ranks; `settings` are for all, `own` for some.
  void start(int64_t count, const Words& settings, const std::map<int64_t, Words>& own = {}) {
    start_program(count, {"train", (folder_.path() / "run.yaml").string(), "--resume"}, settings, own);
  }
  void start_program(int64_t count, const Words& subcommand, const Words& settings = {},
                     const std::map<int64_t, Words>& own = {}) {
    processes_.clear();
    const int port = free_port();
    for (int64_t rank = 0; rank < count; ++rank) {
      Words words = {testing::program_path(DGA_PROGRAM)};
      words.insert(words.end(), subcommand.begin(), subcommand.end());
      const auto add = [&](const Words& assignments) {
        for (const std::string& assignment : assignments) words.insert(words.end(), {"--set", assignment});
      };
      add(settings);
      if (own.count(rank) != 0) add(own.at(rank));
      std::filesystem::remove(output(rank));
      const Words environment = {str("RANK=", rank),       str("WORLD_SIZE=", count),
                                 str("LOCAL_RANK=", rank), str("LOCAL_WORLD_SIZE=", count),
                                 "MASTER_ADDR=127.0.0.1",  str("MASTER_PORT=", port)};
      processes_.emplace_back(words, environment, output(rank));
    }
  }

  void send(int64_t rank, int signal) const { processes_[static_cast<size_t>(rank)].send(signal); }

  int wait(int64_t rank) {
    const Timer timer;
    while (timer.seconds() < kLimitSeconds) {
      if (const auto code = processes_[static_cast<size_t>(rank)].exit_code()) return *code;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    send(rank, SIGKILL);
    return -1000;
  }

  int64_t steps() const {
    const std::filesystem::path file = run_folder() / "metrics.jsonl";
    if (!std::filesystem::exists(file)) return 0;
    const std::string lines = read_file(file);
    return std::count(lines.begin(), lines.end(), '\n');
  }
  void wait_for_steps(int64_t count) const {
    const Timer timer;
    while (steps() < count) {
      ASSERT_LT(timer.seconds(), kLimitSeconds) << text(0) << text(1);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }

  static int free_port() {
    const int id = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(id, reinterpret_cast<sockaddr*>(&address), size), 0);
    getsockname(id, reinterpret_cast<sockaddr*>(&address), &size);
    close(id);
    return ntohs(address.sin_port);
  }

  std::vector<ChildProcess> processes_;
};

}  // namespace dga
