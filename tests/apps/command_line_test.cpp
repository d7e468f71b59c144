#include <regex>
#include <set>

#include "apps/program.h"

namespace dga {
namespace {

using CommandLine = ProgramTest;

constexpr const char* kSubcommands[] = {"train",  "eval",   "score",  "generate", "tokenize",
                                        "export", "import", "config", "info"};

TEST_F(CommandLine, HelpNamesEverySubcommand) {
  const Finished help = run("--help");
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  for (const char* name : kSubcommands)
    EXPECT_NE(help.out.find(std::string("\n  ") + name + " "), std::string::npos) << name;
}

TEST_F(CommandLine, EverySubcommandHasHelpAndItsOptionsAreDocumented) {
  const std::string document = read_file(DGA_SOURCE_DIR "/docs/cli.md");
  const std::regex option("--[a-z][a-z-]*");
  for (const std::string name : kSubcommands) {
    const Finished help = run(name + " --help");
    EXPECT_EQ(help.code, 0) << name;
    EXPECT_NE(help.out.find("--help"), std::string::npos) << name;
    EXPECT_NE(document.find("## dga " + name + "\n"), std::string::npos) << name;
    for (auto match = std::sregex_iterator(help.out.begin(), help.out.end(), option); match != std::sregex_iterator();
         ++match) {
      EXPECT_NE(document.find(match->str()), std::string::npos) << "docs/cli.md lacks " << name << " " << match->str();
    }
  }
}

TEST_F(CommandLine, WhatTakesAConfigTakesAssignments) {
  for (const std::string name : {"train", "eval", "score", "generate", "tokenize", "config"}) {
    EXPECT_NE(run(name + " --help").out.find("--set FIELD=VALUE"), std::string::npos) << name;
  }
}

TEST_F(CommandLine, Version) {
  const Finished version = run("--version");
  EXPECT_EQ(version.code, 0);
  EXPECT_EQ(version.out, "0.1.0\n");
}

TEST_F(CommandLine, WrongUseIsCodeTwoAndOneLine) {
  for (const char* arguments : {"", "fly", "config --fly", "train a.yaml b.yaml", "score", "config", "--set a=b"}) {
    const Finished finished = run(arguments);
    EXPECT_EQ(finished.code, 2) << arguments;
    EXPECT_EQ(finished.out, "") << arguments;
    EXPECT_EQ(finished.err.substr(0, 7), "error: ") << arguments;
    EXPECT_EQ(finished.err.find('\n'), finished.err.size() - 1) << arguments << ": " << finished.err;
  }
}

TEST_F(CommandLine, InfoSaysWhatTheProgramIs) {
  const Finished info = run("info");
  EXPECT_EQ(info.code, 0) << info.err;
  for (const char* part : {"dga 0.1.0\n", "commit: ", "build: ", "cuda: ", "\n  LibTorch 2.11.0\n", "\n  cpu: "}) {
    EXPECT_NE(info.out.find(part), std::string::npos) << part << " is not in\n" << info.out;
  }
}

}  // namespace
}  // namespace dga
