#include <algorithm>
#include <cmath>

#include "eval/text.h"

namespace dga {
namespace {

/// -sum over the distinct values of their count * ln(count / total), from values in sorted order.
template <class T>
double entropy_times_total(const std::vector<T>& sorted, double total) {
  double sum = 0.0;
  for (size_t first = 0; first < sorted.size();) {
    size_t last = first;
    while (last < sorted.size() && sorted[last] == sorted[first]) ++last;
    const auto count = static_cast<double>(last - first);
    sum -= count * std::log(count / total);
    first = last;
  }
  return sum;
}

}  // namespace

TextEntropy text_entropy(const std::vector<std::vector<int32_t>>& sequences) {
  std::vector<int32_t> tokens;
  std::vector<int32_t> earlier;  // first members of the pairs
  std::vector<uint64_t> pairs;
  for (const std::vector<int32_t>& sequence : sequences) {
    tokens.insert(tokens.end(), sequence.begin(), sequence.end());
    for (size_t i = 1; i < sequence.size(); ++i) {
      earlier.push_back(sequence[i - 1]);
      pairs.push_back(static_cast<uint64_t>(static_cast<uint32_t>(sequence[i - 1])) << 32 |
                      static_cast<uint32_t>(sequence[i]));
    }
  }
  TextEntropy entropy;
  if (tokens.empty()) return entropy;
  std::ranges::sort(tokens);
  entropy.unigram =
      entropy_times_total(tokens, static_cast<double>(tokens.size())) / static_cast<double>(tokens.size());
  if (pairs.empty()) return entropy;
  // H(b | a) = H(a, b) - H(a), both over the same pairs.
  std::ranges::sort(earlier);
  std::ranges::sort(pairs);
  const auto total = static_cast<double>(pairs.size());
  entropy.bigram = (entropy_times_total(pairs, total) - entropy_times_total(earlier, total)) / total;
  return entropy;
}

}  // namespace dga
