#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/config.h"
#include "data/document_stream.h"

namespace dga {

/// What the packer needs beside the config.
struct PackerOptions {
  uint64_t seed = 0;
  int64_t vocab_size = 0;
  int32_t bos_id = -1;  // used if the config puts BOS
  int32_t eos_id = -1;
};

/// Mixes the sources' documents into one stream of tokens and cuts rows from it.
class Packer {
 public:
  Packer(const DataConfig& config, std::vector<std::unique_ptr<DocumentStream>> sources, const PackerOptions& options);

  /// The next rows * L tokens as rows.
  Batch take(int64_t rows);
  /// Passes over rows without reading them.
  void skip(int64_t rows);

  /// The place in the stream; before the first token of the next row.
  nlohmann::json state() const;
  /// Only before anything was taken.
  void restore(const nlohmann::json& state);

 private:
  struct Source {
    std::unique_ptr<DocumentStream> documents;
    double weight = 1.0;
    int64_t tokens = 0;  // of all documents drawn, BOS and EOS included
  };
  struct Current {
    size_t source = 0;
    StreamDocument document;
    int64_t length = 0;  // with BOS and EOS
    int64_t offset = 0;  // how much of it has been taken
  };
  /// Where a document, or the rest of one, begins in a stretch of the stream.
  struct Start {
    int64_t position = 0;
    bool first_token = false;
    DocumentRef ref;
  };

  void draw();
  void draw_from(size_t source);
  Current& current();
  void copy(const Current& from, std::span<int32_t> out) const;
  DocumentRef describe(const Current& current) const;
  static void divide(const std::vector<Start>& starts, Batch& batch);

  const DataConfig config_;
  const PackerOptions options_;
  std::vector<Source> sources_;
  std::optional<Current> current_;
  int64_t row_ = 0;  // number of the next row
};

}  // namespace dga
