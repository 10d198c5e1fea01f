"""Words that change what a sentence says about its findings (data only; notation of `lexicon`, read by `scopes`).

Forward cues act on what follows, `_post` cues on what comes before, always within a clause. A longer phrase wins over a
shorter one, so that "no change in" or "not only" are no negations.
"""

CUES = {
    # Absent: all that follows, until the clause turns.
    "neg": ["no", "without", "denies|deny|denied", "negative for", "free of|from", "clear of", "absence of", "lack of",
            "neither", "nor", "rather than", "instead of",
            "not have|show|demonstrate|reveal|contain|exhibit|see|identify|suggest", "absent", "no evidence of|for",
            "no sign of", "devoid of", "never", "not appear|seem to be|represent"],
    # Absent: the next word only ("the heart is not enlarged").
    "neg_next": ["not", "no longer"],
    # Absent: what came before ("a nodule is not identified", "pneumothorax: none").
    "neg_post": ["not definitely|definitively|clearly|currently|readily|___? seen|identified|present|visualized|"
                 "visualised|evident|demonstrated|appreciated|noted|detected|found|apparent|observed|visible|shown|"
                 "suspected", "ruled out", "is|are|was|were|been excluded", "none", "none seen|identified|present",
                 "is|are absent"],
    # Gone since the last study: what came before ("has resolved"), what follows ("resolution of").
    "gone_post": ["removal", "resolved", "cleared", "disappeared", "removed", "extubated",
                  "no longer clearly? seen|present|visualized|visualised|identified|evident|appreciated|apparent|"
                  "visible|noted|demonstrated"],
    "gone": ["complete|interval? resolution of", "complete|interval? clearing of",
             "complete|interval? disappearance of", "interval? removal of"],
    # Uncertain: the next finding and what is coordinated with it; what came before, if nothing follows.
    "unc": ["possible|possibly|probable|probably|likely|unlikely|suspected|questionable|potential|potentially|"
            "presumed|presumably|perhaps|maybe|equivocal|suspect|question|questioned|suggested|considered|favor|"
            "favored|favoring|either|whether|if|?",
            "suspicious|suspicion|concern|concerning|worrisome|worry for|of|about", "more|most|less|very likely",
            "cannot exclude|excluded", "can not exclude|rule", "cannot rule out", "rule out", "r / o", "r o",
            "to exclude", "difficult to exclude", "not exclude", "if any ,?", "should be considered", "history|symptom|sign of",
            "correlate|correlation", "h / o", "hx of", "evaluate|evaluation|assess|assessment for",
            "believed|thought|felt to represent|be", "borderline", "borderline for", "risk for|of"],
    # Uncertain: all that follows in the clause ("may represent atelectasis, aspiration or pneumonia").
    "unc_clause": ["may|might|could", "may|might|could|can represent|reflect|be|indicate|suggest|relate|have",
                   "suggest", "suggestive of", "suggesting", "suggestion of",
                   "differential diagnosis? includes|include|including|would|is|of",
                   "diagnostic? consideration would? include",
                   "raise|raising the? possibility|question|concern|suspicion of|for", "possibility of", "to suggest",
                   "unlikely to represent|be", "consider"],
    "unc_post": ["cannot|not be? entirely|completely? excluded", "can not be entirely|completely? excluded",
                 "cannot be ruled out", "cannot be confirmed|assessed|evaluated|determined", "not ruled out",
                 "difficult to assess|evaluate|confirm",
                 "not well|fully|optimally|adequately seen|visualized|visualised|evaluated|assessed|demonstrated|"
                 "delineated", "in the differential", "could|may be considered", "may|might|could be present|there",
                 "may|might|could not be", "suboptimally seen|evaluated"],
    # Uncertain on both sides.
    "versus": ["versus", "vs"],
    # Ends every scope.
    "stop": [";", "but", "however", "although", "though", "except for?", "aside|apart from", "other than", "yet",
             "while", "with the exception of", "whereas", "despite", "besides", "nevertheless", "additionally",
             "after", "following", "none on|in|at the? left|right|other|remaining side?|lung?"],
    # Starts an affirmed statement.
    "restart": ["there is|are|was|were", "there has|have been"],
    # The findings on both sides are one thing: they share a place.
    "link": ["consistent|compatible with", "represent", "representing", "reflect", "reflecting", "in keeping with",
             "due|secondary|related to", "indicative of", "indicate", "indicating", "characteristic of"],
    # Contains a cue but is none.
    "nothing": ["no|without significant|interval|appreciable|substantial|relevant|new? interval? change|increase|"
                "decrease|difference|improvement|progression|worsening in|of|from?", "not only|as",
                "not significantly? changed|different|increased|decreased|improved|progressed|worse",
                "not seen|present on|in the? prior|previous|comparison",
                "partial|partially|incompletely|incomplete|near|nearly|almost complete|completely? resolved|"
                "resolution|cleared|clearing of?",
                "not yet? completely|fully|entirely? resolved|cleared", "not well? included|imaged", "no doubt",
                "not limited to",
                "allowing for", "not available",
                "no prior|previous|comparison|old study|exam|film|radiograph|examination?", "not necessarily"],
    "unsure": ["with or without", "+/-"],
    "and": ["and", "as well as", "/", "&", "plus"],
    "or": ["or", "and / or"],
    "comma": [","],
    "colon": [":"],
    "with": ["with"],
    "verb": ["is|are|was|were|be|been|has|have|appear|remain|show|demonstrate|reveal|seen|noted|identified|present|"
             "contain|exhibit|look|continue|persist|demonstrated|visualized|appearing|include|evident|accentuate|"
             "exaggerate|limit"],
    "prep": ["in|at|of|within|along|involving|throughout|near|to|into|on|affecting|beneath|under|below|above|toward|"
             "through|around|for|from|by", "adjacent to"],
    # A projection: "nodule overlying the left 5th rib" is not in the rib.
    "over": ["over|overlying|overlie|superimposed|between|behind|overlapping|across|beyond",
             "projecting|project|projected|superimposed over|on|in|at|through?"],
    # After a comma or "and" these begin something that is there ("no effusion, mild edema").
    "affirm": ["mild|mildly|moderate|moderately|minimal|minimally|persistent|chronic|old|healed|patchy|scattered|"
               "extensive|severe|increased|increasing|worsening|multiple|trace|tiny|slight|slightly|marked|diffuse|"
               "again|also|the|this|his|her|a|an|improved|improving|status|some|overall"],
    "otherwise": ["otherwise"],
    # "The lungs are otherwise clear" does not deny what was named before.
    "rest": ["remaining|remainder|rest|elsewhere|portion"],
}
