/* SIGINT and SIGTERM ask a training to stop after the step at hand; a second one ends it at once.
 */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_STOP_H
#define NIBBLE_EXPERIMENTS_TRAIN_STOP_H

void stop_install(void);
int stop_signal(void); /* the signal that came, or 0 */

#endif
