/** Takes one line for the operator's log. */
export type Log = (line: string) => void;
