#include "config/sample_config.h"

namespace dga::config {
namespace {

class ConfigValues : public SampleTest {
 protected:
  int64_t whole(const std::string& text) {
    return read("model: {num_heads: 1, hidden_size: " + text + "}\n").model.hidden_size;
  }
  double number(const std::string& text) {
    return read("optimizer:\n  learning_rate: " + text + "\n").optimizer.learning_rate;
  }
  bool refuses_whole(const std::string& text) {
    return error("model: {num_heads: 1, hidden_size: " + text + "}\n").find("expected a whole number") !=
           std::string::npos;
  }
  bool refuses_number(const std::string& text) {
    return error("optimizer:\n  learning_rate: " + text + "\n").find("expected a number") != std::string::npos;
  }
};

TEST_F(ConfigValues, WholeNumbers) {
  EXPECT_EQ(whole("100"), 100);
  EXPECT_EQ(whole("+100"), 100);
  EXPECT_EQ(whole("1e6"), 1000000);
  EXPECT_EQ(whole("2.5e3"), 2500);
  EXPECT_EQ(whole("1_000_000"), 1000000);
  EXPECT_EQ(whole("64.0"), 64);
  EXPECT_EQ(whole("9223372036854775807"), 9223372036854775807);
}

TEST_F(ConfigValues, WholeNumbersThatAreNone) {
  for (const char* text : {"1.5",
                           "1e-3",
                           "1e30",
                           "0x40",
                           "010",
                           "_1",
                           "1_",
                           "1__0",
                           "1 0",
                           "inf",
                           ".inf",
                           "nan",
                           ".nan",
                           "true",
                           "ten",
                           "'8'",
                           "9223372036854775808",
                           "1e400",
                           "-",
                           "+",
                           "+-1",
                           "--1"}) {
    EXPECT_TRUE(refuses_whole(text)) << text;
  }
}

TEST_F(ConfigValues, Numbers) {
  EXPECT_EQ(number("0.1"), 0.1);
  EXPECT_EQ(number("3"), 3.0);
  EXPECT_EQ(number("1e-4"), 1e-4);
  EXPECT_EQ(number("1E-4"), 1e-4);
  EXPECT_EQ(number(".5"), 0.5);
  EXPECT_EQ(number("5."), 5.0);
  EXPECT_EQ(number("1_000.5"), 1000.5);
}

TEST_F(ConfigValues, NumbersThatAreNone) {
  for (const char* text :
       {".inf", "inf", "-.inf", ".nan", "nan", "NaN", "1e400", "0x1p3", "00.5", "1,5", "\"0.1\"", ".", "e5"}) {
    EXPECT_TRUE(refuses_number(text)) << text;
  }
}

TEST_F(ConfigValues, ASingleValueIsAListOfOne) {
  EXPECT_EQ(read("optimizer: {betas: 0.5}\n").optimizer.betas, std::vector<double>{0.5});
  EXPECT_EQ(read("optimizer: {milestones: 7}\n").optimizer.milestones, std::vector<int64_t>{7});
  EXPECT_EQ(read("sources: [{paths: a}]\n").sources[0].paths, std::vector<std::string>{"a"});
}

TEST_F(ConfigValues, AnEmptyListEmptiesADefault) {
  EXPECT_TRUE(read("optimizer: {betas: []}\n").optimizer.betas.empty());
}

TEST_F(ConfigValues, TextTakesAnyScalar) {
  EXPECT_EQ(read("name: 7\n").name, "7");
  EXPECT_EQ(read("name: true\n").name, "true");
  EXPECT_EQ(read("name: \"\"\n").name, "");
  EXPECT_EQ(read("name: 'a: b # c'\n").name, "a: b # c");
}

TEST_F(ConfigValues, AnEmptyFileGivesTheDefaults) {
  EXPECT_EQ(read(""), Sample{});
  EXPECT_EQ(read("# nothing\n"), Sample{});
}

TEST_F(ConfigValues, AnchorsWork) {
  const Sample sample = read(
      "optimizer: {betas: &b [0.1, 0.2], milestones: []}\nmodel: {rope: {factor: 1}}\nsources:\n"
      "  - &s {name: a, paths: x}\n  - *s\n");
  ASSERT_EQ(sample.sources.size(), 2u);
  EXPECT_EQ(sample.sources[0], sample.sources[1]);
}

TEST(ConfigEnums, AValueIsFoundByItsWholeName) {
  EXPECT_EQ(value_named<Shape>("linear"), Shape::linear);
  for (const char* other : {"", "Linear", "line", "linear "}) EXPECT_EQ(value_named<Shape>(other), std::nullopt);
}

}  // namespace
}  // namespace dga::config
