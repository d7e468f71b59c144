#include "data/line_reader.h"

#include "data/json_text.h"
#include "text_files.h"

namespace dga::test {
namespace {

using LineReaderTest = DataTest;

struct Lines {
  std::vector<std::string> texts;
  std::vector<int64_t> too_long;
  std::string damage;
};

Lines read_lines(const fs::path& path, int64_t max_line_bytes = 1 << 30) {
  Lines lines;
  try {
    LineReader reader(path, max_line_bytes, LineReader::Unit::line);
    while (true) {
      std::string text = "kept";
      const LineReader::Result result = reader.append_next(text);
      if (result == LineReader::Result::end) return lines;
      EXPECT_EQ(text.substr(0, 4), "kept");
      if (result == LineReader::Result::too_long) {
        EXPECT_EQ(text, "kept");
        lines.too_long.push_back(reader.line());
      } else {
        EXPECT_EQ(reader.line_bytes(), static_cast<int64_t>(text.size()) - 4);
        lines.texts.push_back(text.substr(4));
      }
    }
  } catch (const DamagedFile& damage) {
    lines.damage = damage.what();
  }
  return lines;
}

/// Lines whose lengths lie around the reader's buffer of 2^18 bytes.
std::vector<std::string> awkward_lines() {
  std::vector<std::string> lines;
  for (const int length : {0, 1, 2, (1 << 18) - 2, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 0, 0, 700000, 5}) {
    lines.emplace_back(static_cast<size_t>(length), static_cast<char>('a' + lines.size()));
  }
  return lines;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string bytes;
  for (const std::string& line : lines) bytes += line + "\n";
  return bytes;
}

TEST_F(LineReaderTest, ReadsLinesOfAnyLengthFromEveryKindOfFile) {
  const std::vector<std::string> lines = awkward_lines();
  const std::string bytes = joined(lines);
  const std::string first = bytes.substr(0, 300001);
  const std::string second = bytes.substr(300001);
  const std::vector<fs::path> files = {
      write("plain.jsonl", bytes),
      write("one.jsonl.zst", zstd_compress(bytes)),
      write("frames.jsonl.zst", zstd_compress(first) + zstd_compress("") + zstd_compress(second)),
      write("window.jsonl.zst", zstd_compress(bytes, 27)),
      write("one.jsonl.gz", gzip_compress(bytes)),
      write("members.jsonl.gz", gzip_compress(first) + gzip_compress("") + gzip_compress(second)),
      write("unfinished.jsonl", bytes.substr(0, bytes.size() - 1)),  // no newline at the end
  };
  for (const fs::path& file : files) {
    const Lines read = read_lines(file);
    EXPECT_EQ(read.damage, "") << file;
    EXPECT_TRUE(read.texts == lines) << file << ": " << read.texts.size() << " lines";
  }
  EXPECT_EQ(read_lines(write("empty.jsonl", "")).texts.size(), 0u);
  EXPECT_EQ(read_lines(write("empty.jsonl.zst", "")).texts.size(), 0u);
}

TEST_F(LineReaderTest, AcceptsTheLargestWindow) {
  // The window is in the frame's header only if the input is larger; 2^27 is what public sets use, 2^31 the limit.
  const std::string header("\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00", 9);  // window 2^31, an empty last block
  EXPECT_EQ(read_lines(write("window.jsonl.zst", header)).damage, "");
}

TEST_F(LineReaderTest, PassesOverLinesThatAreTooLong) {
  const Lines read = read_lines(write("a.jsonl", joined(awkward_lines())), (1 << 18) - 1);
  EXPECT_EQ(read.too_long, (std::vector<int64_t>{6, 7, 10}));
  EXPECT_EQ(read.texts.size(), 8u);
  EXPECT_EQ(read.texts.back(), "kkkkk");
}

TEST_F(LineReaderTest, KeepsWhatComesBeforeDamage) {
  std::string bytes;
  for (int i = 0; i < 60000; ++i) bytes += "line " + std::to_string(i * 7919 % 100003) + "\n";
  const std::string zst = zstd_compress(bytes);
  const std::string gz = gzip_compress(bytes);
  std::string flipped_zst = zst;
  flipped_zst[zst.size() / 2] ^= 0x55;
  std::string flipped_gz = gz;
  for (size_t i = 0; i < 8; ++i) flipped_gz[gz.size() / 2 + i] ^= 0x55;
  const std::vector<std::pair<fs::path, std::string>> files = {
      {write("cut.jsonl.zst", zst.substr(0, zst.size() * 2 / 3)), "the zstd stream ends too early"},
      {write("flipped.jsonl.zst", flipped_zst), "damaged zstd stream"},
      {write("garbage.jsonl.zst", "hello"), "zstd stream"},
      {write("cut.jsonl.gz", gz.substr(0, gz.size() * 2 / 3)), "damaged gzip stream"},
      {write("flipped.jsonl.gz", flipped_gz), "damaged gzip stream"},
      {write("plain.jsonl.gz", bytes), "is no gzip file"},
  };
  for (const auto& [file, message] : files) {
    const Lines read = read_lines(file);
    expect_contains(read.damage, message);
    // Damage inside compressed data may show only at the next checksum; what came out until then may be wrong.
    if (file.filename().string().starts_with("flipped")) continue;
    std::istringstream expected(bytes);
    for (const std::string& line : read.texts) {
      std::string original;
      std::getline(expected, original);
      ASSERT_EQ(line, original) << file;
    }
    if (!file.filename().string().starts_with("cut")) continue;
    EXPECT_GT(read.texts.size(), 20000u) << file;
  }
}

TEST_F(LineReaderTest, WhatTheSystemRefusesIsNoDamage) {
  for (const char* ending : {".jsonl", ".jsonl.zst", ".jsonl.gz"}) {
    const fs::path absent = folder / (std::string("absent") + ending),
                   broken = folder / (std::string("broken") + ending);
    fs::create_symlink("/proc/self/mem", broken);  // reading its first byte is an EIO
    const std::string of_absent = error_of([&] { read_lines(absent); }),
                      of_broken = error_of([&] { read_lines(broken); });
    EXPECT_EQ(of_absent, "cannot open " + absent.string() + ": No such file or directory");
    EXPECT_EQ(of_broken, "cannot read " + broken.string() + ": Input/output error");
  }
}

TEST(Utf8, IsCheckedToTheLetter) {
  const auto invalid_at = [](const std::string& bytes) {
    // Behind ASCII of every length, so that no alignment hides it.
    std::optional<size_t> at = find_invalid_utf8(bytes);
    for (size_t padding = 1; padding < 18; ++padding) {
      const std::optional<size_t> shifted = find_invalid_utf8(std::string(padding, 'x') + bytes + "end of the text");
      EXPECT_EQ(shifted, at ? std::optional(*at + padding) : at) << padding;
    }
    return at;
  };
  for (const char* valid : {"", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                            "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "a\xe2\x96\x81"}) {
    EXPECT_EQ(invalid_at(valid), std::nullopt) << valid;
  }
  for (const char* invalid :
       {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2\x41", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xe1\x80\x41",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xf1\x80\x80\x41"}) {
    EXPECT_EQ(invalid_at(invalid), 0u) << invalid;
  }
  EXPECT_EQ(find_invalid_utf8("ab\xe2\x96"), 2u);  // cut off
}

TEST(JsonText, TakesTheFieldOrSaysWhyNot) {
  const auto text_of = [](const std::string& line) { return extract_json_text(line, "text").text; };
  const auto kind_of = [](const std::string& line) {
    const ExtractedText extracted = extract_json_text(line, "text");
    return extracted.problem ? name_of(extracted.problem->kind) : "none";
  };
  EXPECT_EQ(text_of(R"({"meta": {"text": "no"}, "text": "a\n\"\u00e9\ud83d\ude00\u0000b", "x": [{"text": "no"}]})"),
            std::string("a\n\"\xc3\xa9\xf0\x9f\x98\x80\0b", 11));
  EXPECT_STREQ(kind_of(R"({"text": "a"} trailing)"), "invalid_json");
  EXPECT_STREQ(kind_of(R"({"text": "a")"), "invalid_json");
  EXPECT_STREQ(kind_of(R"({"text": "\ud800"})"), "invalid_json");
  EXPECT_STREQ(kind_of("hello"), "invalid_json");
  EXPECT_STREQ(kind_of(R"(["text"])"), "invalid_json");
  EXPECT_STREQ(kind_of("\"text\""), "invalid_json");
  EXPECT_STREQ(kind_of(R"({"content": "a", "meta": {"text": "b"}})"), "missing_text");
  EXPECT_STREQ(kind_of(R"({"text": null})"), "missing_text");
  EXPECT_STREQ(kind_of(R"({"text": ["a"]})"), "missing_text");
  EXPECT_STREQ(kind_of(R"({"text": {"text": "a"}})"), "missing_text");
  EXPECT_STREQ(kind_of(R"({"text": ""})"), "empty_document");
  EXPECT_STREQ(kind_of("{\"text\": \"a\xff\"}"), "invalid_utf8");
  EXPECT_STREQ(kind_of(R"({"text": "a"})"), "none");
  EXPECT_STREQ(kind_of(std::string(100000, '[')), "invalid_json");
  // A quoted megabyte does not get into the message.
  EXPECT_LT(extract_json_text("{\"text\": \"" + std::string(1 << 20, 'a'), "text").problem->message.size(), 300u);
}

}  // namespace
}  // namespace dga::test
