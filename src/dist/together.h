#pragma once

#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "dist/communicator.h"

namespace dga {

/// Runs `work` on every rank and tells all of them how it went. Returns what the ranks' works returned, by rank; throws
/// on all of them the error of the first rank whose work threw, with its exit code and, among several, its number.
/// `topic` is that of Communicator::exchange().
std::vector<std::string> run_together(Communicator& ranks, const std::string& topic,
                                      const std::function<std::string()>& work);

/// The same for work of rank 0 alone, which the others wait for.
void run_on_first(Communicator& ranks, const std::string& topic, const std::function<void()>& work);

/// Calls `work`. What it throws is reported to the other ranks, so that they end too, and thrown on.
template <class Work>
auto report_failures(Communicator& ranks, const Work& work) {
  try {
    return work();
  } catch (const std::exception& e) {
    ranks.report_failure(e.what());
    throw;
  }
}

}  // namespace dga
