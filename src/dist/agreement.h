#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "dist/communicator.h"

namespace dga {

/// What must be the same on all ranks: names and values, in the order in which differences are reported.
using Facts = std::vector<std::pair<std::string, std::string>>;

/// Compares every rank's facts with those of rank 0. Throws, on all ranks, a config error of a few lines: for each name
/// its value on rank 0, and on the first rank that has another, with both hosts.
void require_agreement(Communicator& ranks, const Facts& facts);

/// Throws a config error, on all ranks, unless every rank sees what rank 0 writes into the folder; `patience` is for a
/// network file system, which may show a new file to another host only after a while. Makes the folder.
void require_shared_folder(Communicator& ranks, const std::filesystem::path& folder,
                           std::chrono::milliseconds patience = std::chrono::seconds(30));

}  // namespace dga
