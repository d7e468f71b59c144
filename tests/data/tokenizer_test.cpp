#include "data/tokenizer.h"

#include <random>

#include "data/document_reader.h"
#include "data/encoder.h"
#include "text_files.h"
#include "util/file.h"

namespace dga::test {
namespace {

/// A model of the sample's pieces with other settings: a later protobuf field replaces or extends an earlier one.
struct Variant {
  std::string name;
  std::string patch;
  bool cuttable;
};

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"as_trained", "", true},
      {"no_dummy_prefix", std::string("\x1a\x02\x18\x00", 4), true},
      {"remove_extra_whitespaces", std::string("\x1a\x02\x20\x01", 4), false},
      {"unigram", std::string("\x12\x02\x18\x01", 4), false},
      {"whitespace_as_suffix", std::string("\x12\x03\xc0\x01\x01", 5), false},
      {"piece_with_inner_space",
       std::string("\x0a\x0c\x0a\x05") + "e\xe2\x96\x81t" + std::string("\x15\x00\x00\x00\x3f", 5), false},
      {"piece_with_newline", std::string("\x0a\x09\x0a\x02") + "e\n" + std::string("\x15\x00\x00\x00\x3f", 5), true},
  };
  return all;
}

std::vector<int32_t> encode_with(const sentencepiece::SentencePieceProcessor& processor, const std::string& text) {
  const std::vector<int> ids = processor.EncodeAsIds(text);
  return {ids.begin(), ids.end()};
}

/// Strings at which a wrong cut shows: runs of spaces, newlines, the space marker itself, no spaces at all.
std::vector<std::string> hostile_strings() {
  const std::string marker = "\xe2\x96\x81";
  std::vector<std::string> texts = {"",
                                    " ",
                                    "  ",
                                    "a",
                                    " a",
                                    "a ",
                                    "a  ",
                                    "a b",
                                    "a  b",
                                    "a   b",
                                    "  a b  ",
                                    "\n",
                                    "\n\n",
                                    "a\n",
                                    "\na",
                                    "a\nb",
                                    "a \nb",
                                    "a\n b",
                                    "a \n b",
                                    "a\n\n  b\n",
                                    "\ta\t b\t\t",
                                    "a\r\nb",
                                    marker,
                                    "a" + marker + " b",
                                    "a " + marker + "b",
                                    marker + marker + " a",
                                    marker + "\n",
                                    std::string("a\0 b", 4),
                                    std::string("\0", 1),
                                    std::string(3000, 'x'),
                                    std::string(3000, ' '),
                                    std::string(300, '\n'),
                                    "12345 678",
                                    "\xf0\x9f\x98\x80 \xf0\x9f\x98\x80\n",
                                    "\xe6\x97\xa5\xe6\x9c\xac \xe8\xaa\x9e",
                                    "<s> </s>",
                                    "<0x41> <unk>",
                                    "e t",
                                    "the end\nof the e"};
  const std::vector<std::string> parts = {"a",    "the",      " ",
                                          "  ",   "\n",       "\t",
                                          marker, "\xc3\xa9", std::string("\0", 1),
                                          "7",    ".",        "e",
                                          "t",    "word",     "\xf0\x9f\x98\x80",
                                          "<s>"};
  std::mt19937 random(7);
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (size_t length = random() % 24; length > 0; --length) text += parts[random() % parts.size()];
    texts.push_back(text);
  }
  return texts;
}

class TokenizerTest : public DataTest, public ::testing::WithParamInterface<size_t> {
 protected:
  const Variant& variant() const { return variants()[GetParam()]; }
  fs::path model() const { return write("model", read_file(model_path()) + variant().patch); }
};

TEST_P(TokenizerTest, GivesTheLibrarysTokensForHostileStrings) {
  const Tokenizer tokenizer(model());
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load((folder / "model").string()).ok());
  Encoder encoder(tokenizer);
  for (int round = 0; round < 2; ++round) {  // the second finds the words in the encoder's memory
    for (const std::string& text : hostile_strings()) {
      std::vector<int32_t> ids;
      encoder.append(text, TextPosition::document_start, ids);
      ASSERT_EQ(ids, encode_with(library, text)) << variant().name << ": " << nlohmann::json(text).dump();
    }
  }
}

TEST_P(TokenizerTest, CuttingChangesNothing) {
  const Tokenizer tokenizer(model());
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load((folder / "model").string()).ok());
  int64_t cuts = 0;
  Encoder encoder(tokenizer);
  for (const std::string& text : hostile_strings()) {
    std::vector<int32_t> ids;
    for (size_t begin = 0, end = 0; begin < text.size(); begin = end) {
      end = tokenizer.next_cut(text, begin + 1);
      ASSERT_GT(end, begin);
      encoder.append(text.substr(begin, end - begin),
                     begin == 0 ? TextPosition::document_start : TextPosition::after_cut, ids);
      if (end < text.size()) ++cuts;
    }
    ASSERT_EQ(ids, encode_with(library, text)) << variant().name << ": " << nlohmann::json(text).dump();
  }
  EXPECT_EQ(cuts > 1000, variant().cuttable) << cuts;
}

INSTANTIATE_TEST_SUITE_P(Variants, TokenizerTest, ::testing::Range<size_t>(0, 7),
                         [](const auto& param) { return variants()[param.param].name; });

std::vector<std::string> sample_texts() {
  std::vector<std::string> texts;
  for (const char* file :
       {"slimpajama/validation/chunk1/example_holdout_0.jsonl.zst", "proof-pile/test/proofpile_test.jsonl.gz"}) {
    std::istringstream lines(decompressed(sample_folder() / file));
    for (std::string line; std::getline(lines, line);) texts.push_back(nlohmann::json::parse(line)["text"]);
  }
  return texts;
}

TEST_F(DataTest, RealTextGivesTheLibrarysTokensAndComesBack) {
  const auto tokenizer = sample_tokenizer();
  const std::vector<std::string> texts = sample_texts();
  ASSERT_EQ(texts.size(), 98u);
  int64_t long_documents = 0;
  for (const std::string& text : texts) {
    const std::vector<int> expected = library_ids(text);
    const std::vector<int32_t> ids = tokenizer->encode(text);
    ASSERT_TRUE(std::equal(ids.begin(), ids.end(), expected.begin(), expected.end()));
    EXPECT_EQ(tokenizer->decode(ids), text);
    int64_t bytes = 0;
    for (const int32_t id : ids) bytes += tokenizer->token_bytes(id);
    EXPECT_EQ(bytes, static_cast<int64_t>(text.size()) + 1);  // the dummy prefix stands for a space
    if (ids.size() >= 32768) ++long_documents;
  }
  EXPECT_EQ(long_documents, 7);
}

TEST_F(DataTest, TokensStandForBytes) {
  const auto tokenizer = sample_tokenizer();
  EXPECT_EQ(tokenizer->vocab_size(), 4096);
  EXPECT_EQ(tokenizer->unk_id(), 0);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  for (int32_t id = 0; id < 3; ++id) EXPECT_EQ(tokenizer->token_bytes(id), 0);
  EXPECT_EQ(tokenizer->piece(3), "<0x00>");
  EXPECT_EQ(tokenizer->token_bytes(3), 1);
  const std::vector<int32_t> ids = tokenizer->encode("the \xc3\xa9");
  int32_t bytes = 0;
  for (const int32_t id : ids) bytes += tokenizer->token_bytes(id);
  EXPECT_EQ(bytes, 7);
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{}), "");
  expect_contains(error_of([&] { (void)tokenizer->token_bytes(4096); }),
                  "token 4096 is outside the vocabulary of 4096");
  expect_contains(error_of([&] { (void)tokenizer->decode(std::vector<int32_t>{5, -1}); }), "token -1");
}

TEST_F(DataTest, RefusesWhatIsNoModel) {
  const fs::path text = write("tokenizer.model", "hello, this is no model");
  expect_contains(error_of([&] { Tokenizer tokenizer(text); }), text.string() + " is no sentencepiece model");
  const fs::path empty = write("empty.model", "");
  expect_contains(error_of([&] { Tokenizer tokenizer(empty); }), empty.string());
  expect_contains(error_of([&] { Tokenizer tokenizer(folder / "absent"); }), (folder / "absent").string());
}

}  // namespace
}  // namespace dga::test
