// Asked of a compiler before the build: OpenMP, with the library behind it.
#ifndef _OPENMP
#error "the flag is taken, but means nothing"
#endif

int main() {
  int sum = 0;
#pragma omp parallel for num_threads(2) reduction(+ : sum)
  for (int i = 0; i < 4; ++i) sum += i;
  return sum == 6 ? 0 : 1;
}
