#include "util/safetensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "support/temp_folder.h"
#include "util/error.h"
#include "util/file.h"

namespace dga {
namespace {

using testing::TempFolder;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A file by the format's own description: length, header, data.
std::string file_bytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

std::string error_of(const std::string& bytes) {
  const TempFolder folder;
  try {
    SafetensorsFile file(folder.write("t.safetensors", bytes));
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::input);
    return folder.relative(e.what());
  }
  return "no error";
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, int first, int last) {
  return str('"', name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":[", first, ",", last,
             "]}");
}

TEST(SafetensorsTest, ReadsWhatTheFormatDescribes) {
  const TempFolder folder;
  const std::string header = "{" + entry("b", "I32", "[2]", 4, 12) + "," + entry("a", "BF16", "[1,2]", 0, 4) + "," +
                             entry("none", "F32", "[0,3]", 12, 12) + "," + entry("one", "U8", "[]", 12, 13) +
                             ",\"__metadata__\":{\"k\":\"v\"}}   ";
  const SafetensorsFile file(folder.write("t.safetensors", file_bytes(header, "0123456789abc")));
  ASSERT_EQ(file.tensors().size(), 4u);
  const TensorView& a = file.tensors().at("a");
  EXPECT_EQ(a.dtype, "BF16");
  EXPECT_EQ(a.shape, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(std::memcmp(a.bytes.data(), "0123", 4), 0);
  EXPECT_EQ(std::memcmp(file.tensors().at("b").bytes.data(), "456789ab", 8), 0);
  EXPECT_TRUE(file.tensors().at("none").bytes.empty());
  EXPECT_EQ(file.tensors().at("one").shape, std::vector<int64_t>{});
  EXPECT_EQ(std::memcmp(file.tensors().at("one").bytes.data(), "c", 1), 0);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"k", "v"}}));
}

TEST(SafetensorsTest, RoundTrip) {
  const TempFolder folder;
  const std::map<std::string, TensorView> tensors = {{"w.x", {"F32", {2, 1}, bytes_of("01234567")}},
                                                     {"w.a", {"U8", {3}, bytes_of("abc")}},
                                                     {"empty", {"F64", {0}, {}}},
                                                     {"name \"quoted\"", {"I64", {}, bytes_of("76543210")}}};
  const std::filesystem::path path = folder.path() / "t.safetensors";
  write_safetensors(path, tensors, {{"step", "12"}});
  const SafetensorsFile file(path);
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"step", "12"}}));
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, expected] : tensors) {
    const TensorView& actual = file.tensors().at(name);
    EXPECT_EQ(actual.dtype, expected.dtype) << name;
    EXPECT_EQ(actual.shape, expected.shape) << name;
    ASSERT_EQ(actual.bytes.size(), expected.bytes.size()) << name;
    EXPECT_TRUE(std::equal(actual.bytes.begin(), actual.bytes.end(), expected.bytes.begin())) << name;
  }
}

TEST(SafetensorsTest, WritesTheFormat) {
  const TempFolder folder;
  const std::filesystem::path path = folder.path() / "t.safetensors";
  write_safetensors(path, {{"a", {"U8", {3}, bytes_of("abc")}}});
  const std::string bytes = read_file(path);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  EXPECT_EQ(length % 8, 0u);
  ASSERT_EQ(bytes.size(), 8 + length + 3);
  EXPECT_EQ(bytes.substr(8 + length), "abc");
  EXPECT_EQ(
      nlohmann::json::parse(bytes.substr(8, length)),
      nlohmann::json::parse(R"({"__metadata__":{"format":"pt"},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})"));
}

TEST(SafetensorsTest, AFileWithoutTensors) { EXPECT_EQ(error_of(file_bytes("{}", "")), "no error"); }

TEST(SafetensorsTest, BadHeaders) {
  EXPECT_EQ(error_of(""), "t.safetensors: not a safetensors file (0 bytes)");
  EXPECT_EQ(error_of("1234567"), "t.safetensors: not a safetensors file (7 bytes)");
  const std::string inside = "t.safetensors: not a safetensors file, or truncated inside the header";
  EXPECT_EQ(error_of(file_bytes("{}", "").substr(0, 9)), inside);
  EXPECT_EQ(error_of(std::string(8, '\xff') + "{}"), inside);
  const std::string no_object = "t.safetensors: header is not a JSON object";
  EXPECT_EQ(error_of(file_bytes("", "")), no_object);
  EXPECT_EQ(error_of(file_bytes("[]", "")), no_object);
  EXPECT_EQ(error_of(file_bytes("{\"a\":", "")), no_object);
  EXPECT_EQ(error_of(file_bytes("{\"\xff\":1}", "")), no_object);
}

TEST(SafetensorsTest, BadEntries) {
  const auto lacks = [](const char* name) {
    return str("t.safetensors: entry ", name, " of the header lacks dtype, shape or data_offsets");
  };
  EXPECT_EQ(error_of(file_bytes("{\"a\":1}", "")), lacks("a"));
  EXPECT_EQ(error_of(file_bytes("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", "x")), lacks("a"));
  EXPECT_EQ(error_of(file_bytes("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", "x")), lacks("a"));
  EXPECT_EQ(error_of(file_bytes("{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}}", "x")), lacks("a"));
  EXPECT_EQ(error_of(file_bytes("{\"__metadata__\":{\"a\":1}}", "")), lacks("__metadata__"));
  EXPECT_EQ(error_of(file_bytes("{" + entry("a", "F8", "[1]", 0, 1) + "}", "x")), "tensor type F8 is not supported");
}

TEST(SafetensorsTest, ShapesThatDisagreeWithTheBytes) {
  const std::string three = "t.safetensors: tensor a has 3 bytes, which its shape and type do not give";
  EXPECT_EQ(error_of(file_bytes("{" + entry("a", "U8", "[4]", 0, 3) + "}", "xyz")), three);
  EXPECT_EQ(error_of(file_bytes("{" + entry("a", "F16", "[1]", 0, 3) + "}", "xyz")), three);
  EXPECT_EQ(error_of(file_bytes("{" + entry("a", "U8", "[-3]", 0, 3) + "}", "xyz")), three);
  EXPECT_EQ(error_of(file_bytes("{" + entry("a", "U8", "[4294967296,4294967296,3]", 0, 3) + "}", "xyz")), three);
}

TEST(SafetensorsTest, Truncation) {
  const std::string whole = file_bytes("{" + entry("a", "U8", "[4]", 0, 4) + "}", "wxyz");
  EXPECT_EQ(error_of(whole), "no error");
  EXPECT_EQ(error_of(whole.substr(0, whole.size() - 1)),
            "t.safetensors: tensor a ends at byte 4 of 3; the file is truncated");
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_NE(error_of(whole.substr(0, size)), "no error") << size;
}

TEST(SafetensorsTest, OverlapsGapsAndTails) {
  const auto two = [](int first, int last) {
    return file_bytes(
        "{" + entry("a", "U8", "[2]", 0, 2) + "," + entry("b", "U8", str("[", last - first, "]"), first, last) + "}",
        std::string(static_cast<size_t>(last), 'x'));
  };
  EXPECT_EQ(error_of(two(2, 4)), "no error");
  EXPECT_EQ(error_of(two(1, 4)), "t.safetensors: tensors overlap or leave a gap at byte 2 of the data");
  EXPECT_EQ(error_of(two(3, 4)), "t.safetensors: tensors overlap or leave a gap at byte 2 of the data");
  EXPECT_EQ(error_of(two(0, 2)), "t.safetensors: tensors overlap or leave a gap at byte 2 of the data");
  EXPECT_EQ(error_of(two(2, 4) + "y"), "t.safetensors: 1 bytes after the last tensor");
  EXPECT_EQ(error_of(file_bytes("{" + entry("a", "U8", "[0]", 2, 1) + "}", "xyz")).substr(0, 24),
            "t.safetensors: tensor a ");
}

TEST(SafetensorsTest, WriterTakesTensorsOneByOneAndCountsThem) {
  const testing::TempFolder folder;
  const std::map<std::string, TensorSpec> specs = {{"a", {"U8", {3}}}, {"b", {"U8", {2}}}};
  SafetensorsWriter writer(folder.path() / "t", specs, {});
  EXPECT_THROW(writer.write(bytes_of("ab")), Error);
  SafetensorsWriter other(folder.path() / "t", specs, {});
  other.write(bytes_of("abc"));
  EXPECT_THROW(other.close_synced(), Error);
  other.write(bytes_of("de"));
  other.close_synced();
  const SafetensorsFile read(folder.path() / "t");
  EXPECT_EQ(read.tensors().at("b").bytes[1], std::byte{'e'});
}

TEST(SafetensorsTest, WritingWrongShapesIsRefused) {
  const TempFolder folder;
  EXPECT_THROW(write_safetensors(folder.path() / "t", {{"a", {"F32", {2}, bytes_of("abc")}}}), Error);
  EXPECT_THROW(write_safetensors(folder.path() / "t", {{"a", {"F3", {2}, bytes_of("abc")}}}), Error);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "t"));
}

}  // namespace
}  // namespace dga
