#include "decode/text_stream.h"

#include <gtest/gtest.h>

#include <string>

namespace dga {
namespace {

const Tokenizer& tokenizer() {
  static const Tokenizer instance(DGA_SOURCE_DIR "/data/tokenizer.model");
  return instance;
}

/// The id of the piece that stands for one byte.
int32_t byte_piece(unsigned char byte) {
  char name[8];
  std::snprintf(name, sizeof name, "<0x%02X>", byte);
  for (int32_t id = 0; id < tokenizer().vocab_size(); ++id) {
    if (tokenizer().piece(id) == name) return id;
  }
  ADD_FAILURE() << "no piece " << name;
  return 0;
}

std::vector<int32_t> byte_pieces(const std::string& bytes) {
  std::vector<int32_t> ids;
  for (const char byte : bytes) ids.push_back(byte_piece(static_cast<unsigned char>(byte)));
  return ids;
}

std::string stream_all(TextStream& stream, const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) text += stream.push(token);
  return text + stream.finish();
}

const std::string kText =
    "Let x be a real number; then |x| \xE2\x89\xA5 0. \xE2\x88\x80\xCE\xB5 > 0 \xF0\x9F\x98\x80 "
    "\xE6\xBC\xA2\xE5\xAD\x97"
    "  two spaces, caf\xC3\xA9 na\xC3\xAFve. The quick brown fox jumps over the lazy dog, again and again and again, "
    "until the window of the stream has moved on more than once: one, two, three, four, five, six, seven, eight, nine.";

TEST(TextStream, GivesTheTextOfTheWholeSequence) {
  const std::vector<int32_t> tokens = tokenizer().encode(kText);
  ASSERT_GT(tokens.size(), 64U);
  for (size_t prompt = 0; prompt < 40; ++prompt) {
    const std::vector<int32_t> context(tokens.begin(), tokens.begin() + static_cast<int64_t>(prompt));
    TextStream stream(tokenizer(), context);
    const std::string text = stream_all(stream, {tokens.begin() + static_cast<int64_t>(prompt), tokens.end()});
    const std::string whole = tokenizer().decode(tokens);
    const std::string before = tokenizer().decode(context);
    // A prompt that ends inside a character leaves the character to the stream.
    if (whole.starts_with(before)) {
      EXPECT_EQ(before + text, whole) << "prompt of " << prompt;
    }
  }
}

TEST(TextStream, KeepsTheSpaceThatBeginsAWord) {
  const std::vector<int32_t> tokens = tokenizer().encode("one two");
  ASSERT_GE(tokens.size(), 2U);
  const int64_t first = static_cast<int64_t>(tokenizer().encode("one").size());
  TextStream stream(tokenizer(), {tokens.begin(), tokens.begin() + first});
  EXPECT_EQ(stream_all(stream, {tokens.begin() + first, tokens.end()}), " two");
}

TEST(TextStream, HoldsBackUnfinishedCharacters) {
  TextStream stream(tokenizer(), tokenizer().encode("a"));
  const std::vector<int32_t> smile = byte_pieces("\xF0\x9F\x98\x80");
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(stream.push(smile[i]), "") << "byte " << i;
  EXPECT_EQ(stream.push(smile[3]), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, BrokenCharactersComeOutAsReplacements) {
  TextStream stream(tokenizer(), tokenizer().encode("a"));
  const std::string text = stream_all(stream, byte_pieces("\xE2\x89"
                                                          "b"));
  EXPECT_TRUE(text.ends_with("b")) << text;
  EXPECT_TRUE(text.starts_with("\xEF\xBF\xBD")) << text;

  TextStream cut(tokenizer(), tokenizer().encode("a"));
  EXPECT_EQ(cut.push(byte_piece(0xE2)), "");
  EXPECT_EQ(cut.finish(), "\xEF\xBF\xBD");
}

TEST(TextStream, LongRunsOfBrokenBytesAreNotHeldBackForEver) {
  TextStream stream(tokenizer(), tokenizer().encode("a"));
  std::string text;
  for (int i = 0; i < 200; ++i) text += stream.push(byte_piece(0x80));
  EXPECT_GT(text.size(), 190 * 3U);
  text += stream.finish();
  EXPECT_EQ(text.size(), 200 * 3U);
}

TEST(TextStream, ControlTokensHaveNoText) {
  TextStream stream(tokenizer(), {tokenizer().bos_id()});
  EXPECT_EQ(stream_all(stream, tokenizer().encode("word")), "word");
}

}  // namespace
}  // namespace dga
