/* SIGINT, SIGTERM and SIGHUP ask a training to stop after the step at hand. A second SIGINT or
 * SIGTERM ends it at once; a second SIGHUP does not, since a terminal that closes may send several.
 * Where SIGHUP is ignored from the start (nohup), it stays so. */
#ifndef NIBBLE_EXPERIMENTS_TRAIN_STOP_H
#define NIBBLE_EXPERIMENTS_TRAIN_STOP_H

/* SIGINT, SIGTERM and SIGHUP end the process at once, with 128 and the signal's number, having
 * printed "stopped by SIGTERM; " and `text`: of work that keeps nothing until it ends. `text` stays
 * as long as that. Until stop_install. */
void stop_at_once(const char *text);
void stop_install(void);
int stop_signal(void);       /* the first signal that came, or 0 */
const char *stop_name(void); /* of that signal, such as "SIGTERM" */

#endif
