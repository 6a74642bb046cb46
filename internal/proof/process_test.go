package proof

const childVariable = "BULLPEN_PROOF_CHILD"

func childMain() int { return 0 }
