#pragma once

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "data/config.h"
#include "data/tokenizer.h"

/// Files and models for the tests of the data path. Text is encoded here by the sentencepiece library directly.
namespace dga::test {

namespace fs = std::filesystem;

inline fs::path sample_folder() { return fs::path(DGA_SOURCE_DIR) / "data"; }
inline fs::path model_path() { return sample_folder() / "tokenizer.model"; }

/// A folder of its own for each test, gone afterwards.
class DataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "dga-data-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder = pattern;
  }
  void TearDown() override { fs::remove_all(folder); }

  fs::path write(const std::string& name, const std::string& bytes) const {
    fs::create_directories((folder / name).parent_path());
    std::ofstream(folder / name, std::ios::binary) << bytes;
    return folder / name;
  }

  DataConfig config(std::vector<SourceConfig> sources) const {
    DataConfig data;
    data.sources = std::move(sources);
    data.cache = folder / "cache";
    data.tokenizer_threads = 2;
    data.context_length = 64;
    return data;
  }

  fs::path folder;
};

inline std::shared_ptr<const Tokenizer> sample_tokenizer() {
  static const auto tokenizer = std::make_shared<const Tokenizer>(model_path());
  return tokenizer;
}

/// The library itself.
inline std::vector<int> library_ids(const std::string& text) {
  static const auto processor = [] {
    auto loaded = std::make_unique<sentencepiece::SentencePieceProcessor>();
    if (!loaded->Load(model_path().string()).ok()) std::abort();
    return loaded;
  }();
  return processor->EncodeAsIds(text);
}

inline SourceConfig source(const std::string& name, const fs::path& paths) {
  SourceConfig config;
  config.name = name;
  config.paths = {paths.string()};
  return config;
}

inline std::string jsonl(const std::vector<std::string>& texts) {
  std::string lines;
  for (const std::string& text : texts) lines += nlohmann::json{{"text", text}, {"meta", {{"a", 1}}}}.dump() + "\n";
  return lines;
}

/// Documents that can be told apart, of 1 to about 4 * `words` tokens.
inline std::vector<std::string> documents(const std::string& name, int count, int words = 12) {
  std::vector<std::string> texts;
  for (int i = 0; i < count; ++i) {
    std::string text = name + " " + std::to_string(i);
    for (int word = 0; word < (i * 7) % words; ++word) text += " word" + std::to_string(word * i);
    texts.push_back(text);
  }
  return texts;
}

inline std::string zstd_compress(const std::string& bytes, int window_log = 0) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  if (window_log > 0) ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, window_log);
  // Streaming, so that the frame does not say its size and keeps the whole window.
  std::string out(ZSTD_compressBound(bytes.size()) + 64, '\0');
  ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
  ZSTD_outBuffer buffer{out.data(), out.size(), 0};
  while (in.pos < in.size) ZSTD_compressStream2(context, &buffer, &in, ZSTD_e_continue);
  while (ZSTD_compressStream2(context, &buffer, &in, ZSTD_e_end) != 0) {
  }
  ZSTD_freeCCtx(context);
  out.resize(buffer.pos);
  return out;
}

inline std::string gzip_compress(const std::string& bytes) {
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

/// A whole .zst or .gz file, decompressed at one go.
inline std::string decompressed(const fs::path& path) {
  std::string out(size_t{1} << 24, '\0');
  if (path.extension() == ".gz") {
    gzFile file = gzopen(path.c_str(), "rb");
    out.resize(static_cast<size_t>(gzread(file, out.data(), static_cast<unsigned>(out.size()))));
    gzclose(file);
    return out;
  }
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  out.resize(ZSTD_decompress(out.data(), out.size(), bytes.data(), bytes.size()));
  return out;
}

/// What went wrong, or "" if nothing did.
template <class Function>
std::string error_of(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in: " << text;
}

}  // namespace dga::test
