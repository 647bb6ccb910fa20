// Lets several threads share their tasks with the pool's helpers at once, for the thread sanitizer. The argument is
// the file by which processes take turns.

#include <cstdio>
#include <thread>
#include <vector>

#include "pool.h"

using namespace packet_voice;

// As the model threads are, callers compete for the helpers, of which there are more and fewer meanwhile. Every task
// runs exactly once.
int main(int, char** arguments) {
  set_turns(arguments[1]);
  set_threads(4);
  std::vector<std::thread> callers;
  std::vector<int> failed(3);
  for (int caller = 0; caller < 3; caller++) {
    callers.emplace_back([&failed, caller] {
      for (int round = 0; round < 2000; round++) {
        const int tasks = 1 + (round + caller) % 9;
        std::vector<int> runs(tasks);
        in_parallel(tasks, [&](int task) { runs[task]++; });
        for (const int each : runs) failed[caller] += each != 1;
      }
    });
  }
  for (int round = 0; round < 20; round++) {
    set_threads(1 + round % 5);
    std::this_thread::yield();
  }
  for (auto& each : callers) each.join();
  set_threads(1);
  for (const int each : failed) {
    if (each != 0) {
      std::puts("a task did not run exactly once");
      return 1;
    }
  }
  return 0;
}
