#include "experiments/commands/commands.h"

int main(int argc, char **argv) {
    return commands_main(argc - 1, argv + 1);
}
