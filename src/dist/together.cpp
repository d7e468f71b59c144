#include "dist/together.h"

#include "util/error.h"

namespace dga {
namespace {

// What a rank tells begins with one of these; a failure goes on with the exit code as one character.
constexpr char kDone = '+';
constexpr char kFailed = '-';

std::string failure(ExitCode code, const char* message) {
  return std::string{kFailed, static_cast<char>(code)} + message;
}

std::string outcome_of(const std::function<std::string()>& work) {
  try {
    return kDone + work();
  } catch (const Error& error) {
    return failure(error.code(), error.what());
  } catch (const std::exception& error) {
    return failure(ExitCode::failure, error.what());
  }
}

}  // namespace

std::vector<std::string> run_together(Communicator& ranks, const std::string& topic,
                                      const std::function<std::string()>& work) {
  std::vector<std::string> outcomes = ranks.exchange(topic, outcome_of(work));
  for (size_t rank = 0; rank < outcomes.size(); ++rank) {
    std::string& outcome = outcomes[rank];
    if (outcome.front() == kFailed) {
      const std::string who = outcomes.size() > 1 ? str("rank ", rank, ": ") : "";
      fail(static_cast<ExitCode>(static_cast<unsigned char>(outcome[1])), who, outcome.substr(2));
    }
    outcome.erase(0, 1);
  }
  return outcomes;
}

void run_on_first(Communicator& ranks, const std::string& topic, const std::function<void()>& work) {
  run_together(ranks, topic, [&] {
    if (ranks.is_first()) work();
    return std::string();
  });
}

}  // namespace dga
