#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "support/program_path.h"
#include "support/temp_folder.h"
#include "util/file.h"

namespace dga {

struct Finished {
  int code = -1;
  std::string out;
  std::string err;
};

/// Runs the program in a folder of its own; `arguments` are in the shell's form.
class ProgramTest : public ::testing::Test {
 protected:
  Finished run(const std::string& arguments) {
    const std::string command = "cd '" + folder_.path().string() + "' && OMP_NUM_THREADS=1 '" +
                                testing::program_path(DGA_PROGRAM) + "' " + arguments + " >.out 2>.err";
    const int status = std::system(command.c_str());
    EXPECT_TRUE(WIFEXITED(status)) << command;
    return {WEXITSTATUS(status), read_file(folder_.path() / ".out"), read_file(folder_.path() / ".err")};
  }

  testing::TempFolder folder_;
};

}  // namespace dga
